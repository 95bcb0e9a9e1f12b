"""The kinds of frozen weights. Knowing them loads no torch; `fields/families/quantized.py` makes them."""

from importlib.metadata import PackageNotFoundError, version
from typing import Literal

Quantization = Literal["none", "fp8", "int8", "nf4"]

_PACKAGES = {"fp8": "torchao", "int8": "torchao", "nf4": "bitsandbytes"}
_EXTRAS = {"torchao": "quantization", "bitsandbytes": "bitsandbytes"}


def maker(quantization: Quantization) -> str | None:
    """The library that makes such weights, with its version; None for weights as they are.

    Raises:
        ValueError: if it isn't installed; says how to install it.

    >>> maker("none")
    """
    if quantization == "none":
        return None
    package = _PACKAGES[quantization]
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError as error:
        extra = _EXTRAS[package]
        raise ValueError(f"{quantization} needs {package}, which isn't installed: pip install 'fieldweave[{extra}]'") from error
