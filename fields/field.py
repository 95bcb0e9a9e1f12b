"""A frozen expert: networks (base or full checkpoint, each optionally with a LoRA), and an expression of their velocities."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fields.carriers import GIVEN, Condition, Query, Target, Variant
from fields.families.base import Family
from fields.lora.adapter import Adapter, put_adapter
from fields.lora.linear import freeze_adapters
from fields.memory.cost import Pass
from fields.memory.rehearsal import rehearse_expression, rehearse_forward
from fields.method.plan import Group
from fields.method.solver import Velocity
from fields.method.states import RolloutSettings, queries, rolled_out
from fields.operators import Expression, Network, evaluate
from fields.ranks.frozen import place_frozen
from fields.ranks.ranks import Alone, Ranks


@dataclass(frozen=True, slots=True)
class Model:
    """A model beside the run's own, in the same latent space: what experts can be of.

    Attributes:
        name: under which a condition holds what it reads.
        family: how its networks are called: packing, the sign of a velocity and the scale of a time are settled there, so what
            goes in and comes out is x_t, t and dx/dt as the run's own model has them.
    """

    name: str
    family: Family


@dataclass(frozen=True, slots=True)
class Field:
    """The velocity field v(x_t, t, c) of one expert.

    Attributes:
        name: of the expert.
        family: of the run's own model; says what a state is.
        transformers: the frozen networks, adapters included, by name.
        expression: what is made of their velocities.
        device: where it computes.
        models: those of networks that are not of the run's own, by the network's name.
    """

    name: str
    family: Family
    transformers: Mapping[str, nn.Module]
    expression: Expression
    device: torch.device
    models: Mapping[str, Model] = field(default_factory=dict)

    @staticmethod
    def build(
        name: str,
        family: Family,
        networks: Mapping[str, tuple[nn.Module, Adapter | None]],
        expression: Expression | None = None,
        device: torch.device | None = None,
        ranks: Ranks | None = None,
        models: Mapping[str, Model] | None = None,
    ) -> "Field":
        """Put the adapters into the networks and freeze them; without an expression the field is the network of its name.

        Ranks that share weights are connected; each builds this field, and all of them compute together.

        Raises:
            ValueError: if an adapter doesn't fit its network in full.
        """
        device, models = device or torch.device("cpu"), models or {}
        for network, (transformer, adapter) in networks.items():
            if adapter is not None:
                put_adapter(transformer, adapter, f"expert {network!r}")
                freeze_adapters(transformer)
            called = models[network].family if network in models else family
            place_frozen(transformer, called.blocks(transformer), device, ranks or Alone())
        frozen = {network: transformer for network, (transformer, _) in networks.items()}
        return Field(name, family, frozen, expression or Network(name), device, models)

    @property
    def networks(self) -> Iterable[nn.Module]:
        """All of them, adapters included."""
        return self.transformers.values()

    @property
    def blocks(self) -> Iterable[nn.Module]:
        """The repeated blocks of all of them."""
        return [block for name, transformer in self.transformers.items() for block in self._family(name).blocks(transformer)]

    def _family(self, network: str) -> Family:
        return self.models[network].family if network in self.models else self.family

    @torch.no_grad()
    def velocity(
        self, x_t: Float[Tensor, "batch ..."], t: Float[Tensor, " batch"], condition: Condition, variant: Variant = GIVEN
    ) -> Float[Tensor, "batch ..."]:
        """The expert's velocity, float32, on this field's device; the condition holds what each network's model reads."""
        networks = {name: self._network(name) for name in self.transformers}
        models = {network: model.name for network, model in self.models.items()}
        return evaluate(self.expression, networks, x_t, t, condition, variant, models)

    def _network(self, name: str) -> Velocity:
        transformer, family = self.transformers[name], self._family(name)
        return lambda x_t, t, condition: family.velocity(transformer, x_t, t, condition)

    def rehearse(self, what: Pass) -> None:
        """Compute what an answer to such a query computes at once.

        Raises:
            DoesNotFit: if the device has no memory for it.
        """

        def forward(network: str, at_once: Pass) -> None:
            family = self._family(network)
            rehearse_forward(family, self.transformers[network], at_once.seen_by(family), self.device)

        rehearse_expression(self.expression, forward, what)

    def answer(self, query: Query) -> Target:
        """u = v_m(x_t, t, c): what the student should have said at its own state.

        Raises:
            ValueError: if the velocity is not finite; names the expert, the samples and their t.
        """
        here = query.to(self.device)
        at = here.x_t, here.t, here.condition
        return Target(
            sample_ids=query.sample_ids,
            expert=self.name,
            t=query.t,
            velocity=self.velocity(*at).cpu(),
            unconditional=self.velocity(*at, Variant(prompt="empty")).cpu() if query.both_branches else None,
        )

    def queries(self, group: Group, condition: Condition, settings: RolloutSettings) -> tuple[Query, ...]:
        """States of this field's own rollout, for students that learn off-policy; their policy version is -1.

        Raises:
            ValueError: if a state is not finite; names the samples.
        """
        shape = self.family.latent_shape(group.size)
        states = rolled_out(self.velocity, (group,), condition.to(self.device), shape, settings)
        return queries(group, states, condition, settings, (-1, self.name))
