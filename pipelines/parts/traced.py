"""Traces of what the processes of a run compute, where the configuration asks for them."""

from collections.abc import Callable

from fields.compilation import M
from fields.ranks.ranks import Ranks
from fields.tracing import trace_forwards
from pipelines.parts.run_parts import RunParts

_WARM_STEPS, _STEPS = 3, 3  # left out, and traced


def traced(parts: RunParts, who: str, forwards: int, build: Callable[[Ranks], M], ranks: Ranks) -> M:
    """What a process computes with, traced for a few optimizer steps if `run.profile` says where to.

    Args:
        parts: of the run.
        who: the process is.
        forwards: that it computes in about one step, which has a group of each route.
        build: loads the model, or a rank's part of it.
        ranks: of this process.
    """
    model = build(ranks)
    if parts.config.run.profile is not None:
        network = next(iter(model.networks))
        trace_forwards(network, parts.config.run.profile.absolute(), who, 1 + forwards * _WARM_STEPS, forwards * _STEPS)
    return model
