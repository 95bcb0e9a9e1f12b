"""What every operator is: branches to evaluate, and a value made of them."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from fields.carriers import GIVEN, Condition, Variant
from fields.method.solver import Velocity


@dataclass(frozen=True, slots=True)
class Branch:
    """One evaluation: a network, and the variant of the condition that it sees."""

    network: str
    variant: Variant


@dataclass(frozen=True, slots=True)
class Answers:
    """The velocities of all branches at (x_t, t), float32."""

    velocities: Mapping[Branch, Float[Tensor, "batch ..."]]
    t: Float[Tensor, " batch"]


class Expression(ABC):
    """A field made of branches. `variant` is what the expression as a whole is conditioned on: an operator around it may
    have dropped the prompt already."""

    @abstractmethod
    def branches(self, variant: Variant) -> Iterator[Branch]:
        """What has to be evaluated; a branch may occur more than once."""

    @abstractmethod
    def value(self, answers: Answers, variant: Variant) -> Float[Tensor, "batch ..."]:
        """The velocity, float32 (batch, ...)."""

    def conditional(self) -> "Expression":
        """The expression without its guidance: what `Rescale` takes the contrast from."""
        return self


@dataclass(frozen=True, slots=True)
class Network(Expression):
    """A leaf: the network of that name as it is."""

    name: str

    def branches(self, variant: Variant) -> Iterator[Branch]:
        yield Branch(self.name, variant)

    def value(self, answers: Answers, variant: Variant) -> Float[Tensor, "batch ..."]:
        return answers.velocities[Branch(self.name, variant)]


def evaluate(
    expression: Expression,
    networks: Mapping[str, Velocity],
    x_t: Float[Tensor, "batch ..."],
    t: Float[Tensor, " batch"],
    condition: Condition,
    variant: Variant = GIVEN,
    models: Mapping[str, str | None] | None = None,
) -> Float[Tensor, "batch ..."]:
    """The expression's velocity at (x_t, t), float32.

    Branches of one network whose conditions have the same shapes are one forward of the batch's multiple.

    Args:
        expression: what is made of the networks' velocities.
        networks: by name.
        x_t: states.
        t: their times, in [0, 1].
        condition: of the run's model, and with it those of other models that networks are of.
        variant: of the condition, that the expression as a whole sees.
        models: network -> its model's name, None for the run's own; no entry is the run's own.
    """
    models = models or {}
    together: dict[Hashable, tuple[str, list[tuple[Branch, Condition]]]] = {}
    for branch in dict.fromkeys(expression.branches(variant)):
        seen = condition.of(models.get(branch.network)).variant(branch.variant)
        layout = tuple((name, tensor.shape) for name, tensor in sorted(seen.tensors.items()))
        together.setdefault((branch.network, layout), (branch.network, []))[1].append((branch, seen))
    velocities: dict[Branch, Tensor] = {}
    for network, calls in together.values():
        n = len(calls)
        batch = Condition.concatenate([seen for _, seen in calls])
        answer = networks[network](torch.cat([x_t] * n), torch.cat([t] * n), batch).float()
        velocities |= {branch: part for (branch, _), part in zip(calls, answer.chunk(n), strict=True)}
    return expression.value(Answers(velocities, t), variant)


def per_sample(values: Shaped[Tensor, " batch"], like: Shaped[Tensor, "batch ..."]) -> Shaped[Tensor, "batch ..."]:
    """Values (batch,) shaped to multiply states (batch, ...).

    >>> per_sample(torch.ones(2), torch.zeros(2, 3, 8, 8)).shape
    torch.Size([2, 1, 1, 1])
    """
    return values.reshape(-1, *[1] * (like.ndim - 1))


def inner(a: Float[Tensor, "batch ..."], b: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
    """Each sample's inner product, shaped to multiply states.

    >>> inner(torch.tensor([[1.0, 2.0], [0.0, 3.0]]), torch.tensor([[4.0, 1.0], [5.0, 2.0]])).tolist()
    [[6.0], [6.0]]
    """
    return per_sample((a * b).flatten(1).sum(dim=1), a)
