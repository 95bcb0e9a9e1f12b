"""Guidance as some models' own pipelines do it, where it isn't the plain formula."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from fields.carriers import Variant
from fields.operators import Branch, Expression
from fields.operators.expression import Answers


@dataclass(frozen=True, slots=True)
class DistilledGuidance(Expression):
    """Guidance that was distilled into the network, which takes the scale as an input.

    It costs one evaluation: there is no unconditional branch.
    """

    of: Expression
    scale: float

    def branches(self, variant: Variant) -> Iterator[Branch]:
        yield from self.of.branches(replace(variant, distilled_scale=self.scale))

    def value(self, answers: Answers, variant: Variant) -> Float[Tensor, "batch ..."]:
        return self.of.value(answers, replace(variant, distilled_scale=self.scale))


@dataclass(frozen=True, slots=True)
class LengthKept(Expression):
    """A guided field v at the lengths of its conditional branch: v |v_c| / |v|.

    Attributes:
        of: the guided field.
        length: |v| of a velocity, in a shape that broadcasts with it; the model decides over which axes.
    """

    of: Expression
    length: Callable[[Float[Tensor, "batch ..."]], Float[Tensor, "batch ..."]]

    def branches(self, variant: Variant) -> Iterator[Branch]:
        yield from self.of.branches(variant)
        yield from self.conditional().branches(variant)

    def value(self, answers: Answers, variant: Variant) -> Float[Tensor, "batch ..."]:
        v, v_c = self.of.value(answers, variant), self.conditional().value(answers, variant)
        return v * (self.length(v_c) / self.length(v))

    def conditional(self) -> Expression:
        return self.of.conditional()
