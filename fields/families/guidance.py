"""Guidance as some models' own pipelines do it, where it isn't the plain formula."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from fields.carriers import Variant
from fields.operators import Branch, Expression
from fields.operators.expression import Answers
from fields.operators.guidance import Guided


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
class NormedGuidance(Guided):
    """Classifier-free guidance whose result keeps the lengths of the conditional branch.

    Attributes:
        scale: v = v_u + scale (v_c - v_u), then v |v_c| / |v|.
        length: |v| of a velocity, in a shape that broadcasts with it; the model decides over which axes.
        prompt: of the branch u.
    """

    scale: float
    length: Callable[[Tensor], Tensor]
    prompt: Literal["empty", "negative"]

    def against(self, variant: Variant) -> Variant:
        return replace(variant, prompt=self.prompt)

    def value(self, answers: Answers, variant: Variant) -> Tensor:
        v_c, v_u = self.pair(answers, variant)
        guided = v_u + self.scale * (v_c - v_u)
        return guided * (self.length(v_c) / self.length(guided))
