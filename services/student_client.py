"""The client of the trained student's service."""

from typing import Protocol

from torch import Tensor

from fields.carriers import Condition
from services.client import RemoteMethod, ServiceClient


class _Handle(Protocol):
    """`StudentService`, seen from elsewhere."""

    generate: RemoteMethod[[Tensor, Tensor, Condition], Tensor]


class StudentClient(ServiceClient[_Handle]):
    """Generates with the student."""

    async def generate(self, noise: Tensor, grid: Tensor, condition: Condition) -> Tensor:
        """Clean states (batch, ...) by the student's own ODE from the given noise."""
        x_0, _ = await self._call(lambda: self._handle.generate.remote(noise, grid, condition), answer_within_s=None)
        return x_0
