"""Operators that push a field away from a worse one."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fields.carriers import Variant
from fields.operators.expression import Answers, Branch, Expression, inner, per_sample

Against = Literal["empty", "negative"]
Interval = tuple[float, float]

ALWAYS: Interval = (0.0, 1.0)


@dataclass(frozen=True, slots=True)
class Guided(Expression):
    """An expression against itself without the prompt."""

    of: Expression

    def branches(self, variant: Variant) -> Iterator[Branch]:
        yield from self.of.branches(variant)
        yield from self.of.branches(self.against(variant))

    def against(self, variant: Variant) -> Variant:
        """The condition of the worse branch."""
        return replace(variant, prompt="empty")

    def pair(self, answers: Answers, variant: Variant) -> tuple[Float[Tensor, "batch ..."], Float[Tensor, "batch ..."]]:
        """The velocities (v_c, v_u)."""
        return self.of.value(answers, variant), self.of.value(answers, self.against(variant))

    def conditional(self) -> Expression:
        return self.of.conditional()


@dataclass(frozen=True, slots=True)
class Guidance(Guided):
    """Classifier-free guidance: v_u + a(t) (v_c - v_u) (Ho and Salimans, arXiv 2207.12598).

    a(t) is `scale` for t in `interval`, ends included, and 1 elsewhere (Kynkaanniemi et al., arXiv 2404.07724). The branch
    v_u has no prompt, or the row's negative one.

    >>> from fields.operators.expression import Network
    >>> guided, given, empty = Guidance(Network("expert"), scale=3.0), Variant(), Variant(prompt="empty")
    >>> v_c, v_u = torch.tensor([[2.0]]), torch.tensor([[1.0]])
    >>> answers = Answers({Branch("expert", given): v_c, Branch("expert", empty): v_u}, torch.tensor([0.5]))
    >>> guided.value(answers, given).item()
    4.0
    """

    scale: float
    interval: Interval = ALWAYS
    prompt: Against = "empty"

    def against(self, variant: Variant) -> Variant:
        return replace(variant, prompt=self.prompt)

    def value(self, answers: Answers, variant: Variant) -> Float[Tensor, "batch ..."]:
        v_c, v_u = self.pair(answers, variant)
        low, high = self.interval
        inside = (answers.t >= low) & (answers.t <= high)
        return v_u + per_sample(torch.where(inside, self.scale, 1.0), v_c) * (v_c - v_u)


@dataclass(frozen=True, slots=True)
class ZeroStarGuidance(Guided):
    """CFG-Zero*: s v_u + scale (v_c - s v_u) with s = <v_c, v_u> / ||v_u||^2, and 0 for t > `zero_above`
    (Fan et al., arXiv 2503.18886)."""

    scale: float
    zero_above: float = 1.0

    def value(self, answers: Answers, variant: Variant) -> Float[Tensor, "batch ..."]:
        v_c, v_u = self.pair(answers, variant)
        s = inner(v_c, v_u) / (inner(v_u, v_u) + torch.finfo(torch.float32).tiny)
        guided = s * v_u + self.scale * (v_c - s * v_u)
        return torch.where(per_sample(answers.t > self.zero_above, v_c), torch.zeros_like(guided), guided)


@dataclass(frozen=True, slots=True)
class AdaptiveProjectedGuidance(Guided):
    """APG without momentum: v_c + (scale - 1) (d_orthogonal + parallel d_parallel) (Sadat et al., arXiv 2410.02416).

    d = v_c - v_u, its norm cut to `largest_norm` (a root mean square over the elements), is split by its direction
    along v_c; the parallel part is what oversaturates.
    """

    scale: float
    parallel: float = 0.0
    largest_norm: float = float("inf")

    def value(self, answers: Answers, variant: Variant) -> Float[Tensor, "batch ..."]:
        v_c, v_u = self.pair(answers, variant)
        tiny = torch.finfo(torch.float32).tiny
        d = v_c - v_u
        norm = (inner(d, d) / d[0].numel()).sqrt()
        d = d * (self.largest_norm / (norm + tiny)).clamp(max=1.0)
        along = inner(d, v_c) / (inner(v_c, v_c) + tiny) * v_c
        return v_c + (self.scale - 1) * (d - along + self.parallel * along)


@dataclass(frozen=True, slots=True)
class EditGuidance(Expression):
    """Two-way guidance of an editor: v(0, 0) + s_I (v(I, 0) - v(0, 0)) + s_T (v(I, T) - v(I, 0))
    (InstructPix2Pix, arXiv 2211.09800), with the image I and the text T dropped in turn."""

    of: Expression
    image_scale: float
    text_scale: float

    def branches(self, variant: Variant) -> Iterator[Branch]:
        for seen in self._variants(variant):
            yield from self.of.branches(seen)

    def _variants(self, variant: Variant) -> tuple[Variant, Variant, Variant]:
        without_text = replace(variant, prompt="empty")
        return variant, without_text, replace(without_text, source=False)

    def value(self, answers: Answers, variant: Variant) -> Float[Tensor, "batch ..."]:
        both, image, nothing = (self.of.value(answers, seen) for seen in self._variants(variant))
        return nothing + self.image_scale * (image - nothing) + self.text_scale * (both - image)

    def conditional(self) -> Expression:
        return self.of.conditional()


@dataclass(frozen=True, slots=True)
class Autoguidance(Expression):
    """v_bad + scale (v_good - v_bad): a field against a worse version of itself (Karras et al., arXiv 2406.02507)."""

    good: Expression
    bad: Expression
    scale: float

    def branches(self, variant: Variant) -> Iterator[Branch]:
        yield from self.good.branches(variant)
        yield from self.bad.branches(variant)

    def value(self, answers: Answers, variant: Variant) -> Float[Tensor, "batch ..."]:
        bad = self.bad.value(answers, variant)
        return bad + self.scale * (self.good.value(answers, variant) - bad)

    def conditional(self) -> Expression:
        return self.good.conditional()


@dataclass(frozen=True, slots=True)
class Rescale(Expression):
    """phi v std(v_c) / std(v) + (1 - phi) v: the guided velocity v at the contrast of the conditional one
    (Lin et al., arXiv 2305.08891, section 3.4)."""

    of: Expression
    phi: float

    def branches(self, variant: Variant) -> Iterator[Branch]:
        yield from self.of.branches(variant)
        yield from self.of.conditional().branches(variant)

    def value(self, answers: Answers, variant: Variant) -> Float[Tensor, "batch ..."]:
        v = self.of.value(answers, variant)
        v_c = self.of.conditional().value(answers, variant)
        ratio = v_c.flatten(1).std(dim=1) / (v.flatten(1).std(dim=1) + torch.finfo(torch.float32).tiny)
        return v * per_sample(self.phi * ratio + (1 - self.phi), v)

    def conditional(self) -> Expression:
        return self.of.conditional()
