"""Networks whose repeated blocks torch.compile turns into kernels of their own."""

import sys
from collections.abc import Iterable
from typing import Protocol, TypeVar, runtime_checkable

from torch import nn

from fields.families.base import Family
from fields.memory.cost import Pass

_MOST_GRAPHS = 64  # of one function: a block of two or three kinds has a handful, one that grows with every call is a mistake


@runtime_checkable
class Compilable(Protocol):
    """What computes with networks of a family: an expert's field, the student that rolls out, the student that learns."""

    @property
    def family(self) -> Family:
        """Of the run's own model."""
        ...

    @property
    def networks(self) -> Iterable[nn.Module]:
        """All of them, with whatever adapters they get."""
        ...

    @property
    def blocks(self) -> Iterable[nn.Module]:
        """The repeated blocks of all of them."""
        ...

    def rehearse(self, what: Pass) -> None:
        """Compute the largest call of these samples once."""
        ...


M = TypeVar("M", bound=Compilable)


def compiled(model: M, branches: int = 1) -> M:
    """The model, with the blocks of its networks compiled; returns when all that its calls need is.

    A block is compiled for any number of samples and any size of image at once (`dynamic=True`), and a second time for a
    single sample. Kernels may be chosen by the shapes that the compiler sees first. These are the same in every process, here
    and before any call: so no result depends on the order in which calls come.

    Args:
        model: is changed in place.
        branches: velocities of each sample whose graphs are kept together.

    Raises:
        RuntimeError: if this machine has no compiler, or a block cannot be compiled.
    """
    import torch._dynamo.config
    import torch._inductor.config
    import torch.fx.experimental._config  # here: half of a process's start, for those alone that compile

    torch._dynamo.config.recompile_limit = _MOST_GRAPHS
    torch._dynamo.config.fail_on_recompile_limit_hit = True  # it would go on uncompiled, with other bits
    torch.fx.experimental._config.use_duck_shape = False  # two sizes that are the same by chance may differ in the next call
    torch._inductor.config.deterministic = torch.are_deterministic_algorithms_enabled()
    for block in model.blocks:
        block.compile(dynamic=True)
    for what in _first_passes(model.family, branches):
        model.rehearse(what)
    return model


def _first_passes(family: Family, branches: int) -> Iterable[Pass]:
    """What is compiled at, in this order: two samples, which stand for any number, and one, without and with a source image."""
    numbers = {"none": (0,), "optional": (0, 1), "required": (1,)}[family.source]
    return (Pass(samples, family.default_size, sources, branches) for samples in (2, 1) for sources in numbers)


def compiled_graphs() -> int:
    """How many graphs this process has compiled so far."""
    if "torch._dynamo" not in sys.modules:
        return 0
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"]
