"""The student as it rolls out: the base's network with the weights of one published version."""

from collections.abc import Callable, Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fields.carriers import Condition, Query, Weights
from fields.data.size import Size
from fields.families.base import Family
from fields.memory.cost import Pass
from fields.memory.rehearsal import rehearse_forward
from fields.method.plan import Batch
from fields.method.rollout import generate
from fields.method.states import RolloutSettings, noised, queries, rolled_out
from fields.operators import Guidance, Network, evaluate
from fields.ranks.frozen import place_frozen
from fields.ranks.ranks import Alone, Ranks
from fields.versions import Versions


class Policy:
    """Rolls out the version of the student that a request names.

    Args:
        family: how the network is called.
        versions: the network, and how it takes a version.
        rollouts: how it rolls out, by the size of an image; None is the family's default size.
        device: where it computes.
        ranks: that hold the network together, connected; each has a policy like this one, and all of them compute together.
    """

    def __init__(
        self,
        family: Family,
        versions: Versions,
        rollouts: Callable[[Size | None], RolloutSettings],
        device: torch.device | None = None,
        ranks: Ranks | None = None,
    ):
        self.family = family
        self.device = device or torch.device("cpu")
        self.versions = versions
        blocks = family.blocks(versions.transformer)
        self.transformer = place_frozen(versions.transformer, blocks, self.device, ranks or Alone(), versions.beside)
        self.rollouts = rollouts
        self.weights: Weights | None = None

    @property
    def networks(self) -> Iterable[nn.Module]:
        """The one network, adapters included."""
        return (self.transformer,)

    @property
    def blocks(self) -> Iterable[nn.Module]:
        """Its repeated blocks."""
        return self.family.blocks(self.transformer)

    def load(self, weights: Weights | None) -> None:
        """Become this version of the student; None is the bare base."""
        self.weights = weights
        self.versions.load(weights.tensors if weights else None)

    def velocity(
        self, x_t: Float[Tensor, "batch ..."], t: Float[Tensor, " batch"], condition: Condition
    ) -> Float[Tensor, "batch ..."]:
        """The student's velocity with the loaded version."""
        return self.family.velocity(self.transformer, x_t, t, condition)

    @torch.no_grad()
    def answer(self, query: Query) -> Float[Tensor, "batch ..."]:
        """The loaded version's velocity at the query's states, on the CPU."""
        here = query.to(self.device)
        return self.velocity(here.x_t, here.t, here.condition).cpu()

    def rehearse(self, what: Pass) -> None:
        """Compute one forward of the network as it is loaded.

        Raises:
            DoesNotFit: if the device has no memory for it.
        """
        rehearse_forward(self.family, self.transformer, what, self.device)

    def queries(self, batch: Batch, conditions: Sequence[Condition]) -> tuple[tuple[Query, ...], ...]:
        """Roll a batch's samples out from their noise to their query points, or noise their target images.

        Args:
            batch: whose samples.
            conditions: of each of its groups.

        Returns:
            The queries of each of its groups.

        Raises:
            ValueError: if a state is not finite; names the samples.
        """
        assert self.weights is not None, "a query needs a published version"
        settings = self.rollouts(batch[0].size)
        version = (self.weights.policy_version, self.weights.checksum)
        states = self._states(batch, conditions, settings)
        of_groups = zip(batch, states, conditions, strict=True)
        return tuple(queries(group, own, condition, settings, version) for group, own, condition in of_groups)

    def _states(self, batch: Batch, conditions: Sequence[Condition], settings: RolloutSettings) -> Sequence[Tensor]:
        """The states (queries, batch, ...) of each group."""
        if settings.solver is None:
            clean = [condition.clean for condition in conditions]
            return [noised(_known(own), group, settings) for own, group in zip(clean, batch, strict=True)]
        seen = Condition.joined(conditions)
        shape = self.family.latent_shape(batch[0].size)
        states = rolled_out(self.velocity, batch, seen.to(self.device), shape, settings)
        return states.split([len(group.ids) for group in batch], dim=1)

    def generate(
        self, noise: Float[Tensor, "batch ..."], grid: Float[Tensor, " points"], condition: Condition, guidance: float = 1.0
    ) -> Float[Tensor, "batch ..."]:
        """Clean states on the CPU by Euler from the given noise, with the loaded version.

        Args:
            noise: states at t = 1, float32.
            grid: times 1 = t_0 > ... > t_N = 0.
            condition: one row per sample.
            guidance: scale of classifier-free guidance; 1 is the student's own velocity.
        """
        student = Network("student")
        expression = student if guidance == 1 else Guidance(student, guidance)

        def velocity(x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
            return evaluate(expression, {"student": self.velocity}, x_t, t, condition)

        return generate(velocity, noise, grid, condition, self.device)


def _known(clean: Tensor | None) -> Tensor:
    assert clean is not None, "noised data needs the rows' target images"
    return clean
