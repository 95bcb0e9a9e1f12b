"""Operators as YAML: an expression over this expert's own network (`self`) and the fields of other experts (by name).

operator: {type: rescale, phi: 0.7, of: {type: guidance, scale: 4, interval: [0.1, 0.9]}}
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Discriminator, Field, PositiveFloat, Tag, model_validator

from pipelines.config.base import Finite, Section, Share

if TYPE_CHECKING:
    from fields import operators as f
    from fields.families.base import Family

SELF = "self"


class GuidanceOperator(Section):
    """Guidance as the model's own pipeline does it; outside the interval of t the field is not guided."""

    type: Literal["guidance"]
    of: "Operator" = SELF
    scale: Finite = Field(description="as the model's own pipeline counts it")
    interval: tuple[Share, Share] = Field(default=(0.0, 1.0), description="[low, high] of t, ends included")

    @model_validator(mode="after")
    def _interval_ascends(self) -> "GuidanceOperator":
        if self.interval[0] >= self.interval[1]:
            raise ValueError(f"interval {list(self.interval)} must ascend")
        return self

    def build(self, leaf: "Leaf", family: "Family") -> "f.Expression":
        return family.guidance(expression(self.of, leaf, family), self.scale, interval=self.interval)


class NegativePromptOperator(Section):
    """Guidance away from the rows' negative prompt."""

    type: Literal["negative_prompt"]
    of: "Operator" = SELF
    scale: Finite

    def build(self, leaf: "Leaf", family: "Family") -> "f.Expression":
        return family.guidance(expression(self.of, leaf, family), self.scale, against="negative")


class CfgZeroOperator(Section):
    """CFG-Zero*: guidance with the unconditional branch scaled to fit, and no movement at first."""

    type: Literal["cfg_zero"]
    of: "Operator" = SELF
    scale: Finite
    zero_above: Share = Field(default=1.0, description="t above which the velocity is 0")

    def build(self, leaf: "Leaf", family: "Family") -> "f.Expression":
        from fields.operators import ZeroStarGuidance

        return ZeroStarGuidance(expression(self.of, leaf, family), self.scale, self.zero_above)


class ApgOperator(Section):
    """Adaptive projected guidance without momentum."""

    type: Literal["apg"]
    of: "Operator" = SELF
    scale: Finite
    parallel: Finite = Field(default=0.0, description="how much of the part along the conditional velocity stays")
    largest_norm: PositiveFloat = Field(default=float("inf"), description="of the difference, a root mean square")

    def build(self, leaf: "Leaf", family: "Family") -> "f.Expression":
        from fields.operators import AdaptiveProjectedGuidance

        return AdaptiveProjectedGuidance(expression(self.of, leaf, family), self.scale, self.parallel, self.largest_norm)


class EditGuidanceOperator(Section):
    """Two-way guidance of an editor, by the source image and by the text."""

    type: Literal["edit_guidance"]
    of: "Operator" = SELF
    image_scale: Finite
    text_scale: Finite

    def build(self, leaf: "Leaf", family: "Family") -> "f.Expression":
        from fields.operators import EditGuidance

        return EditGuidance(expression(self.of, leaf, family), self.image_scale, self.text_scale)


class RescaleOperator(Section):
    """A guided field at the contrast of its conditional branch."""

    type: Literal["rescale"]
    of: "Operator"
    phi: Share

    def build(self, leaf: "Leaf", family: "Family") -> "f.Expression":
        from fields.operators import Rescale

        return Rescale(expression(self.of, leaf, family), self.phi)


class AutoguidanceOperator(Section):
    """A field against a worse version of itself."""

    type: Literal["autoguidance"]
    good: "Operator" = SELF
    bad: "Operator"
    scale: Finite

    def build(self, leaf: "Leaf", family: "Family") -> "f.Expression":
        from fields.operators import Autoguidance

        return Autoguidance(expression(self.good, leaf, family), expression(self.bad, leaf, family), self.scale)


class InterpolateOperator(Section):
    """(1 - weight) a + weight b; a weight outside [0, 1] extrapolates."""

    type: Literal["interpolate"]
    a: "Operator" = SELF
    b: "Operator"
    weight: Finite

    def build(self, leaf: "Leaf", family: "Family") -> "f.Expression":
        from fields.operators import Interpolation

        return Interpolation(expression(self.a, leaf, family), expression(self.b, leaf, family), self.weight)


class Part(Section):
    """One field of a mix."""

    of: "Operator" = SELF
    weight: Share


class MixOperator(Section):
    """A convex mix of fields."""

    type: Literal["mix"]
    parts: tuple[Part, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _weights_sum_to_1(self) -> "MixOperator":
        if abs((total := sum(part.weight for part in self.parts)) - 1) > 1e-6:
            raise ValueError(f"the weights of a mix sum to 1, not {total:g}")
        return self

    def build(self, leaf: "Leaf", family: "Family") -> "f.Expression":
        from fields.operators import Mix

        return Mix(tuple((expression(part.of, leaf, family), part.weight) for part in self.parts))


def _kind(written: Any) -> str | None:
    if isinstance(written, dict):
        return written.get("type")
    return "name" if isinstance(written, str) else getattr(written, "type", None)


Operator = Annotated[
    Annotated[str, Tag("name")]
    | Annotated[GuidanceOperator, Tag("guidance")]
    | Annotated[NegativePromptOperator, Tag("negative_prompt")]
    | Annotated[CfgZeroOperator, Tag("cfg_zero")]
    | Annotated[ApgOperator, Tag("apg")]
    | Annotated[EditGuidanceOperator, Tag("edit_guidance")]
    | Annotated[RescaleOperator, Tag("rescale")]
    | Annotated[AutoguidanceOperator, Tag("autoguidance")]
    | Annotated[InterpolateOperator, Tag("interpolate")]
    | Annotated[MixOperator, Tag("mix")],
    Discriminator(
        _kind,
        custom_error_type="unknown_operator",
        custom_error_message="no such operator; allowed: a name, or a type of guidance, negative_prompt, cfg_zero, apg, "
        "edit_guidance, rescale, autoguidance, interpolate, mix",
    ),
    Field(description="`self`, the name of an expert, or an operator around such"),
]
Leaf = Callable[[str], "f.Expression"]

for _section in (
    GuidanceOperator,
    NegativePromptOperator,
    CfgZeroOperator,
    ApgOperator,
    EditGuidanceOperator,
    RescaleOperator,
    AutoguidanceOperator,
    InterpolateOperator,
    Part,
    MixOperator,
):
    _section.model_rebuild()  # they name `Operator`, which names them


def expression(operator: "str | Section", leaf: Leaf, family: "Family") -> "f.Expression":
    """The expression of the method; `leaf` says what a name stands for, and guidance is the family's own.

    Raises:
        ValueError: if the family cannot be guided so.
    """
    return leaf(operator) if isinstance(operator, str) else operator.build(leaf, family)  # type: ignore[attr-defined]


def references(operator: "str | Section", key: str) -> Iterator[tuple[str, str]]:
    """Every name in an operator, with the dotted key where it stands."""
    if isinstance(operator, str):
        yield key, operator
        return
    for name in type(operator).model_fields:
        value = getattr(operator, name)
        if name in ("of", "good", "bad", "a", "b"):
            yield from references(value, f"{key}.{name}")
        elif name == "parts":
            for n, part in enumerate(value):
                yield from references(part.of, f"{key}.parts.{n}.of")
