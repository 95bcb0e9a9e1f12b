"""Named tensors: whether they fit a module, and copying them into it."""

from collections.abc import Mapping

import torch
from torch import Tensor

from fields.carriers import Tensors

_MOST_LISTED = 8


def load_into(parameters: Mapping[str, Tensor], tensors: Tensors, source: str) -> None:
    """Copy tensors into parameters of the same names.

    Raises:
        ValueError: unless names and shapes match in full; says how many don't, and lists them.
    """
    if wrong := differences(tensors, parameters):
        raise ValueError(f"{source}: {len(wrong)} tensors don't fit the model: {listed(wrong)}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])


def differences(found: Tensors, wanted: Tensors) -> list[str]:
    """Where names or shapes differ, one phrase per tensor."""
    return [
        f"{name} is {tuple(found[name].shape) if name in found else 'absent'}, "
        f"wanted {tuple(wanted[name].shape) if name in wanted else 'none'}"
        for name in sorted(wanted.keys() | found.keys())
        if name not in wanted or name not in found or wanted[name].shape != found[name].shape
    ]


def listed(names: list[str]) -> str:
    """The names, as many as a line can take."""
    more = len(names) - _MOST_LISTED
    return "; ".join(names[:_MOST_LISTED]) + (f" and {more} more" if more > 0 else "")
