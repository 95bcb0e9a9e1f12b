"""The replica of a model that several processes may hold: the one among them that is asked."""

from collections.abc import Callable, Sequence
from typing import Concatenate, Generic, ParamSpec, Protocol, TypeVar

import torch

from fields.memory.cost import Pass
from fields.numerics import Numerics
from fields.ranks.ranks import Alone, Ranks
from services.applications import Identity
from services.model_ranks import ModelRanks, places_in_own_group
from services.replica import Replica

P = ParamSpec("P")
A = TypeVar("A")


class Rehearsing(Protocol):
    """What a model has for its replica."""

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        ...

    def rehearse(self, what: Pass) -> None:
        """Compute the largest call once; raises `DoesNotFit`."""
        ...


M = TypeVar("M", bound=Rehearsing)


class ModelReplica(Replica, Generic[M]):
    """Asks all ranks of its model, one call at a time; a lost rank ends this process, and Serve starts another replica.

    Args:
        build: loads the model, or a rank's part of it, on the device of the process that calls it.
        numerics: how it computes; the same in every process of a run.
        identity: what decides the answers, for whoever thinks of sharing this service.
        ranks: of the model. Where there are several, this replica has a placement group with a bundle for each.
    """

    def __init__(
        self,
        build: Callable[[Ranks], M],
        numerics: Numerics,
        identity: Identity,
        ranks: Sequence[Ranks] = (Alone(),),
    ):
        super().__init__(numerics, identity)
        self._ranks = ModelRanks(build, ranks, numerics, places_in_own_group() if len(ranks) > 1 else [])

    @property
    def device(self) -> torch.device:
        return self._ranks.model.device

    async def _ask(self, function: Callable[Concatenate[M, P], A], *arguments: P.args, **keywords: P.kwargs) -> A:
        """The result of `function(model, *arguments)`; raises as `ModelRanks.compute` does."""
        return await self._compute(self._ranks.compute, function, *arguments, **keywords)

    async def rehearse(self, what: Pass) -> None:
        """Compute the largest call once; raises `DoesNotFit`."""
        await self._rehearse(lambda at_once: self._ranks.compute(_rehearsed, at_once), what)

    async def check_health(self) -> None:
        await super().check_health()
        await self._ranks.check()


def _rehearsed(model: Rehearsing, what: Pass) -> None:
    model.rehearse(what)
