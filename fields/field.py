"""A frozen expert: the base or a full checkpoint of its own, optionally with a LoRA, inside an operator."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fields.carriers import Condition, Query, Target
from fields.families.base import Family
from fields.lora import Adapter, put_adapter
from fields.operators import Operator


@dataclass(frozen=True, slots=True)
class Field:
    """The velocity field v(x_t, t, c) of one expert.

    Attributes:
        name: of the expert.
        family: how the network is called.
        transformer: the frozen network, adapter included.
        operator: what is made of the network's velocities.
        device: where it computes.
    """

    name: str
    family: Family
    transformer: nn.Module
    operator: Operator
    device: torch.device

    @staticmethod
    def build(
        name: str,
        family: Family,
        transformer: nn.Module,
        adapter: Adapter | None,
        operator: Operator,
        device: torch.device | None = None,
    ) -> "Field":
        """Put the adapter into the network and freeze it.

        Raises:
            ValueError: if the adapter doesn't fit the network in full.
        """
        device = device or torch.device("cpu")
        if adapter is not None:
            put_adapter(transformer, adapter, f"expert {name!r}")
        return Field(name, family, transformer.to(device).eval().requires_grad_(False), operator, device)

    @torch.no_grad()
    def velocity(self, x_t: Float[Tensor, "batch ..."], t: Float[Tensor, " batch"], condition: Condition) -> Tensor:
        """The expert's velocity, float32, on this field's device."""
        return self.operator.apply(self._network, x_t, t, condition)

    def _network(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return self.family.velocity(self.transformer, x_t, t, condition)

    def answer(self, query: Query) -> Target:
        """u = v_m(x_t, t, c): what the student should have said at its own state.

        Raises:
            ValueError: if the velocity is not finite; names the expert, the samples and their t.
        """
        velocity = self.velocity(query.x_t.to(self.device), query.t.to(self.device), query.condition.to(self.device))
        return Target(sample_ids=query.sample_ids, expert=self.name, t=query.t, velocity=velocity.cpu())
