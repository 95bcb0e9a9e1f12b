"""Several fields as one."""

from collections.abc import Iterator
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from fields.carriers import Variant
from fields.operators.expression import Answers, Branch, Expression


@dataclass(frozen=True, slots=True)
class Mix(Expression):
    """sum_i w_i v_i with weights that sum to 1."""

    parts: tuple[tuple[Expression, float], ...]

    def branches(self, variant: Variant) -> Iterator[Branch]:
        for part, _ in self.parts:
            yield from part.branches(variant)

    def value(self, answers: Answers, variant: Variant) -> Float[Tensor, "batch ..."]:
        (first, weight), *rest = self.parts
        total = weight * first.value(answers, variant)
        for part, weight in rest:
            total = total + weight * part.value(answers, variant)
        return total

    def conditional(self) -> Expression:
        return Mix(tuple((part.conditional(), weight) for part, weight in self.parts))


@dataclass(frozen=True, slots=True)
class Interpolation(Expression):
    """(1 - weight) v_a + weight v_b; a weight outside [0, 1] extrapolates."""

    a: Expression
    b: Expression
    weight: float

    def branches(self, variant: Variant) -> Iterator[Branch]:
        yield from self.a.branches(variant)
        yield from self.b.branches(variant)

    def value(self, answers: Answers, variant: Variant) -> Float[Tensor, "batch ..."]:
        return (1 - self.weight) * self.a.value(answers, variant) + self.weight * self.b.value(answers, variant)

    def conditional(self) -> Expression:
        return Interpolation(self.a.conditional(), self.b.conditional(), self.weight)
