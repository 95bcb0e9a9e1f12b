"""What a field is conditioned on, and which of it a branch of an operator sees."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fields.carriers.carrier import Carrier, Tensors
from fields.carriers.transfer import on_device


@dataclass(frozen=True, slots=True)
class Variant:
    """Which of a condition's parts a branch of an operator sees.

    `distilled_scale` replaces the condition's own guidance scale, which a guidance-distilled network takes as an input.
    """

    prompt: Literal["given", "empty", "negative"] = "given"
    source: bool = True
    distilled_scale: float | None = None


GIVEN = Variant()
DISTILLED_GUIDANCE = "guidance"  # the condition's tensor (batch,) of guidance scales, an input of a guidance-distilled network


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition(Carrier):
    """What a field is conditioned on, encoded: named tensors with one row per sample.

    Attributes:
        tensors: the family's own names, such as `words` and `source`; the first dimension is the batch.
        unconditional: the tensors that differ when the prompt is dropped; guidance evaluates both. Empty where nothing does.
        negative: the tensors that differ under the row's negative prompt; empty if rows have none.
        source_names: which of the tensors hold the source image.
        clean: the row's target image as a clean state x_0 (batch, ...), for states or targets from data; fields don't see it.
        others: the same rows as other models encode them, by the model's name: what experts with a model of their own read.
    """

    tensors: Tensors
    unconditional: Tensors
    negative: Tensors = field(default_factory=dict)
    source_names: tuple[str, ...] = ()
    clean: Float[Tensor, "batch ..."] | None = None
    others: Mapping[str, "Condition"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sizes = {tensor.shape[0] for tensor in (*self.tensors.values(), *self.unconditional.values(), *self.negative.values())}
        if self.clean is not None:
            sizes.add(len(self.clean))
        sizes |= {len(other) for other in self.others.values()}
        if len(sizes) != 1:
            raise ValueError(f"condition tensors disagree on the batch: sizes {sorted(sizes)}")

    def __len__(self) -> int:
        return next(iter(self.tensors.values())).shape[0]

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Condition":
        return Condition(
            tensors={name: change(tensor) for name, tensor in self.tensors.items()},
            unconditional={name: change(tensor) for name, tensor in self.unconditional.items()},
            negative={name: change(tensor) for name, tensor in self.negative.items()},
            source_names=self.source_names,
            clean=None if self.clean is None else change(self.clean),
            others={model: other._map(change) for model, other in self.others.items()},
        )

    def of(self, model: str | None) -> "Condition":
        """What a network of another model reads, by the model's name; None is the run's own."""
        return self if model is None else self.others[model]

    def with_others(self, others: Mapping[str, "Condition"]) -> "Condition":
        """The condition with these of other models, and no more."""
        return replace(self, others=others)

    def select(self, rows: Int[Tensor, " rows"] | Bool[Tensor, " batch"]) -> "Condition":
        """The condition of some samples, by row number or mask."""
        return self._map(lambda tensor: tensor[rows])

    def rows(self, rows: range) -> "Condition":
        """The condition of neighbouring samples, without a copy."""
        return self._map(lambda tensor: tensor[rows.start : rows.stop])

    def to(self, device: torch.device) -> "Condition":
        """The condition on a device."""
        return self._map(lambda tensor: on_device(tensor, device))

    def variant(self, variant: Variant) -> "Condition":
        """What a branch of an operator sees: these tensors alone.

        Raises:
            ValueError: for the negative prompt or the absent source image of rows that have none, or for the empty prompt of a
                condition that came without it.
        """
        changed = {"given": {}, "empty": self.unconditional, "negative": self.negative}[variant.prompt]
        if variant.prompt == "negative" and not changed:
            raise ValueError("an operator wants the negative prompt; the rows have no negative_prompt")
        if variant.prompt == "empty" and not changed:
            raise ValueError("a velocity without the prompt is wanted; the condition was encoded without the empty prompt")
        if not variant.source and not self.source_names:
            raise ValueError("an operator drops the source image; the rows have no source_image")
        seen = {**self.tensors, **changed}
        if not variant.source:
            seen = {name: tensor for name, tensor in seen.items() if name not in self.source_names}
        if variant.distilled_scale is not None:
            seen[DISTILLED_GUIDANCE] = torch.full_like(seen[DISTILLED_GUIDANCE], variant.distilled_scale)
        return Condition(tensors=seen, unconditional={})

    @staticmethod
    def joined(conditions: "Sequence[Condition]", empty_prompt: bool = False) -> "Condition":
        """What a network reads of several groups' conditions, as one batch; that of a single group is left as it is.

        Groups differ in what else their conditions hold: who answers them reads more, or less.

        Args:
            conditions: of the groups.
            empty_prompt: whether the network is asked without the prompt, too.
        """
        if len(conditions) == 1:
            return conditions[0]
        read = [
            replace(own, unconditional=own.unconditional if empty_prompt else {}, negative={}, clean=None, others={})
            for own in conditions
        ]
        return Condition.concatenate(read)

    @staticmethod
    def concatenate(conditions: "Sequence[Condition]") -> "Condition":
        """The conditions of several batches as one batch.

        Sequences (the second dimension) of unequal length are padded with zeros at their ends: a family whose texts
        differ in length carries a mask, which is padded along with them.

        Raises:
            ValueError: if one holds a tensor that another lacks, such as a source image.
        """
        first = conditions[0]
        if len(held := {tuple(sorted(condition.tensors)) for condition in conditions}) > 1:
            raise ValueError(f"conditions of different tensors make no batch: {' and '.join(map(str, sorted(held)))}")
        clean = [c.clean for c in conditions if c.clean is not None]
        return Condition(
            tensors={name: _join([c.tensors[name] for c in conditions]) for name in first.tensors},
            unconditional={name: _join([c.unconditional[name] for c in conditions]) for name in first.unconditional},
            negative={name: _join([c.negative[name] for c in conditions]) for name in first.negative},
            source_names=first.source_names,
            clean=torch.cat(clean) if clean else None,
            others={model: Condition.concatenate([c.others[model] for c in conditions]) for model in first.others},
        )


def _join(tensors: list[Tensor]) -> Tensor:
    """The tensors one after the other along the batch, padded along the second dimension."""
    if tensors[0].ndim < 2:
        return torch.cat(tensors)
    longest = max(tensor.shape[1] for tensor in tensors)
    rest = [tensor.new_zeros(len(tensor), longest - tensor.shape[1], *tensor.shape[2:]) for tensor in tensors]
    return torch.cat([torch.cat(pair, dim=1) for pair in zip(tensors, rest, strict=True)])
