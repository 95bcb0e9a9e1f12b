"""Named tensors: whether they fit a module, and copying them into it."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fields.carriers import Tensors

_MOST_ENUMERATED = 8

Shapes = Mapping[str, tuple[int, ...]]


def load_into(parameters: Mapping[str, Float[Tensor, "..."]], tensors: Tensors, source: str) -> None:
    """Copy tensors into parameters of the same names; a parameter that is shared takes this process's shard.

    Raises:
        ValueError: unless names and shapes match in full; says how many don't, and lists them.
    """
    check_shapes(shapes(tensors), shapes(parameters), source)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(_placed(tensors[name], parameter))


def _placed(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, of which each process that shares a parameter has the same, as shards like that parameter's."""
    if type(like) in (Tensor, nn.Parameter):
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor  # takes a second, and most processes share nothing

    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.detach(), like.device_mesh, like.placements, src_data_rank=None)  # sends nothing


def shapes(tensors: Tensors) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor.

    >>> shapes({"bias": torch.zeros(3)})
    {'bias': (3,)}
    """
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def check_shapes(found: Shapes, wanted: Shapes, source: str, model: str = "the model") -> None:
    """Refuse tensors whose names or shapes differ from those that are wanted.

    Args:
        found: name -> shape.
        wanted: name -> shape.
        source: of the tensors that were found, for the message.
        model: what wants the others, for the message.

    Raises:
        ValueError: says how many differ, and lists them.
    """
    wrong = [
        f"{name} is {found.get(name, 'absent')}, wanted {wanted.get(name, 'none')}"
        for name in sorted(wanted.keys() | found.keys())
        if found.get(name) != wanted.get(name)
    ]
    if wrong:
        raise ValueError(f"{source}: {len(wrong)} tensors don't fit {model}: {enumerated(wrong)}")


def enumerated(names: list[str]) -> str:
    """The names, as many as a line can take.

    >>> enumerated(["a", "b"])
    'a; b'
    >>> enumerated(list("abcdefghij"))
    'a; b; c; d; e; f; g; h and 2 more'
    """
    more = len(names) - _MOST_ENUMERATED
    return "; ".join(names[:_MOST_ENUMERATED]) + (f" and {more} more" if more > 0 else "")
