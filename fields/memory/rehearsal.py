"""The largest pass of a process, once and for nothing: so what its device cannot hold is known before anything is trained."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn

from fields.carriers import GIVEN, Condition, Query
from fields.families.base import Family
from fields.memory.cost import Pass
from fields.operators import Expression


class DoesNotFit(ValueError):
    """A pass that a device has no memory for, in one line."""


@contextmanager
def rehearsing(what: Pass) -> Generator[None]:
    """Within it, what is computed is a rehearsal of a pass.

    Raises:
        DoesNotFit: where the block is out of memory.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise DoesNotFit(f"no memory for {what}: {_first_line(error)}") from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):  # what torch says on a CPU, where the error has no class of its own
            raise
        raise DoesNotFit(f"no memory for {what}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def largest_query(family: Family, what: Pass) -> Query:
    """A query as large as a pass: of zeros, in the middle of the rollout, with prompts of the greatest length."""
    x_t = torch.zeros(what.samples, *family.latent_shape(what.size))
    inputs = family.widest_inputs(what.samples, what.size, what.sources)
    tensors = {  # laid out as encoded rows are, whole and views of nothing: blocks are compiled for it
        name: torch.zeros(tensor.shape, dtype=tensor.dtype)
        if tensor.is_meta
        else tensor.clone(memory_format=torch.contiguous_format)
        for name, tensor in inputs.items()
    }
    return Query(
        sample_ids=tuple(range(what.samples)),
        routes=("rehearsal",) * what.samples,
        policy_version=0,
        checksum="",
        x_t=x_t,
        t=torch.full((what.samples,), 0.5),
        t_next=torch.full((what.samples,), 0.25),
        condition=Condition(tensors=tensors, unconditional=tensors),
        both_branches=what.branches == 2,
    )


@torch.no_grad()
def rehearse_forward(family: Family, transformer: nn.Module, what: Pass, device: torch.device) -> None:
    """Compute one forward of a pass on a device, and forget it.

    Raises:
        DoesNotFit: if the device has no memory for it.
    """
    with rehearsing(what):
        query = largest_query(family, what)
        family.velocity(transformer, query.x_t.to(device), query.t.to(device), query.condition.to(device))


def rehearse_expression(expression: Expression, forward: Callable[[str, Pass], object], what: Pass) -> None:
    """Rehearse every network of an expression with the branches that it evaluates at once: those whose conditions have the same
    shapes, which for a branch without the source image is another.

    Args:
        expression: of velocities.
        forward: rehearses one network, by name.
        what: the expression is asked.

    Raises:
        DoesNotFit: as `forward` does.
    """
    branches = list(dict.fromkeys(expression.branches(GIVEN)))
    for network in dict.fromkeys(branch.network for branch in branches):
        at_once = sum(branch.network == network and branch.variant.source for branch in branches)
        forward(network, replace(what, samples=at_once * what.samples))
