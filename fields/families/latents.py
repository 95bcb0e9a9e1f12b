"""Latent spaces: whether states are the same images in two models, so that experts of one can teach students of the other."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from fields.tensors import enumerated

_ENCODING = ("encoder.", "quant_conv.", "bn.")  # what makes a state of an image; `bn` holds FLUX.2's mean and deviation
_FILES = "diffusion_pytorch_model*.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentSpace:
    """What the values of a state mean.

    Attributes:
        settings: what is told in numbers: channels, pixels per cell, scaling, shift, mean and deviation of the channels.
        vae: folder of the network that makes states of images; None where images are states.
    """

    settings: Mapping[str, Any]
    vae: Path | None


def check_same_latents(own: LatentSpace, other: LatentSpace) -> None:
    """Refuse two models whose states are not the same images.

    The networks that encode are compared by their values. Where they are kept in two types, as far as the coarser can tell.

    Raises:
        ValueError: shows both sides of everything that differs.
    """
    keys = sorted(own.settings.keys() | other.settings.keys())
    differing = [
        f"{key} {other.settings.get(key)}, the run's model has {own.settings.get(key)}"
        for key in keys
        if own.settings.get(key) != other.settings.get(key)
    ]
    if differing:
        raise ValueError(f"its latent space is another: {enumerated(differing)}")
    if own.vae is None or other.vae is None or own.vae == other.vae:
        return
    if names := list(_differing(own.vae, other.vae)):
        raise ValueError(
            f"its latent space is another: {len(names)} tensors of the encoder in {other.vae} differ from those in {own.vae}, "
            f"of the run's model: {enumerated(names)}"
        )


def _differing(own: Path, other: Path) -> Iterator[str]:
    """Names of the encoders' tensors that only one has, or whose values are not the same."""
    here, there = _files(own), _files(other)
    for name in sorted(here.keys() | there.keys()):
        if name not in here or name not in there or not _same(_tensor(here[name], name), _tensor(there[name], name)):
            yield name


def _files(folder: Path) -> dict[str, Path]:
    """Name of a tensor that encodes -> its file."""
    found = {}
    for path in sorted(folder.glob(_FILES)):
        with safe_open(path, framework="pt") as file:
            names: list[str] = file.keys()  # the file itself cannot be iterated over
            found |= {name: path for name in names if name.startswith(_ENCODING)}
    if not found:
        raise ValueError(f"{folder} has no weights of an encoder")
    return found


def _tensor(path: Path, name: str) -> Tensor:
    with safe_open(path, framework="pt") as file:
        return file.get_tensor(name)


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same numbers, up to the rounding of the coarser of their types.

    >>> exact = torch.tensor([1.001, -3e-3])
    >>> _same(exact, exact.bfloat16()), _same(exact, exact * 1.01), _same(exact.half(), exact.bfloat16())
    (True, False, True)
    """
    if a.shape != b.shape:
        return False
    if a.dtype == b.dtype or not (a.is_floating_point() and b.is_floating_point()):
        return a.dtype == b.dtype and torch.equal(a, b)
    coarser = max(torch.finfo(a.dtype).eps, torch.finfo(b.dtype).eps)
    smallest = max(torch.finfo(a.dtype).smallest_normal, torch.finfo(b.dtype).smallest_normal)
    return torch.allclose(a.double(), b.double(), rtol=coarser, atol=smallest)
