"""An expert as its callers see it, whether it has an application to itself or shares one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fields.carriers import Condition, Target
from services.client import ServiceClient


@dataclass(frozen=True, slots=True)
class ExpertClient:
    """The way to one expert.

    Attributes:
        service: client of the application that holds the expert.
        name: the expert's name in a shared application; None where the application is the expert.
    """

    service: ServiceClient
    name: str | None = None

    async def call(self, method: str, *arguments: Any) -> Any:
        """The answer of `method(*arguments)` by this expert alone."""
        address = () if self.name is None else (self.name,)
        return await self.service.call(method, *address, *arguments)

    async def generate(self, noise: Tensor, grid: Tensor, condition: Condition) -> Tensor:
        """Clean states by the expert's own ODE."""
        return await self.call("generate", noise, grid, condition)


async def ask(experts: Sequence[ExpertClient], queries: Sequence[Any]) -> list[tuple[Target, ...]]:
    """The answers of experts in one call: of one that is alone, or of several that share an application.

    Args:
        experts: as many as there are `queries`.
        queries: tuples of `Query`, or references of such that are resolved at the replica.
    """
    service = experts[0].service
    if experts[0].name is None:
        assert len(experts) == 1, "only experts of a shared application are asked together"
        return [await service.call("answer", queries[0])]
    return await service.call("answer", [expert.name for expert in experts], *queries)
