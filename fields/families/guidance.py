"""Guidance as some models' own pipelines do it, where it isn't the plain formula."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from torch import Tensor

from fields.carriers import Variant
from fields.operators import Branch, Expression
from fields.operators.expression import Answers


@dataclass(frozen=True, slots=True)
class DistilledGuidance(Expression):
    """Guidance that was distilled into the network, which is told the scale: one evaluation, no unconditional branch."""

    of: Expression
    scale: float

    def branches(self, variant: Variant) -> Iterator[Branch]:
        yield from self.of.branches(replace(variant, told=self.scale))

    def value(self, answers: Answers, variant: Variant) -> Tensor:
        return self.of.value(answers, replace(variant, told=self.scale))


@dataclass(frozen=True, slots=True)
class LengthKept(Expression):
    """A guided field v at the lengths of its conditional branch: v |v_c| / |v|.

    Attributes:
        of: the guided field.
        length: |v| of a velocity, in a shape that broadcasts with it; the model decides over which axes.
    """

    of: Expression
    length: Callable[[Tensor], Tensor]

    def branches(self, variant: Variant) -> Iterator[Branch]:
        yield from self.of.branches(variant)
        yield from self.conditional().branches(variant)

    def value(self, answers: Answers, variant: Variant) -> Tensor:
        v, v_c = self.of.value(answers, variant), self.conditional().value(answers, variant)
        return v * (self.length(v_c) / self.length(v))

    def conditional(self) -> Expression:
        return self.of.conditional()
