"""What `pipelines.compare` runs: experiments, each of them variants of one run, over several seeds."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveInt, model_validator

from pipelines.config.base import Finite, Name, Section


class Variant(Section):
    """One way to make a student."""

    set: dict[str, Any] = Field(default={}, description="dotted.key -> value, over the comparison's own")
    guidance: tuple[Finite, ...] = Field(default=(1.0,), min_length=1, description="scales at which the student takes the exam")


class Experiment(Section):
    """Variants that answer one question."""

    title: str
    claim: str = Field(description="what the paper says, with its numbers")
    routes: tuple[Name, ...] = Field(min_length=1, description="the score is the mean graded skill over these")
    default: str = Field(description="row that the others are compared with, seed by seed")
    variants: dict[str, Variant] = Field(min_length=1)
    orders: tuple[tuple[str, str], ...] = Field(default=(), description="(better, worse): the paper's orderings, tested here")

    @property
    def rows(self) -> dict[str, tuple[str, float]]:
        """Row label -> (variant, guidance): a variant that takes the exam at several scales has a row for each."""
        rows = {}
        for name, variant in self.variants.items():
            for scale in variant.guidance:
                rows[name if len(variant.guidance) == 1 else f"{name} @ {scale:g}"] = (name, scale)
        return rows

    @model_validator(mode="after")
    def _rows_exist(self) -> "Experiment":
        for key, label in [("default", self.default), *(("orders", label) for order in self.orders for label in order)]:
            if label not in self.rows:
                raise ValueError(f"{key}: unknown row {label!r}; allowed: {', '.join(self.rows)}")
        return self


class Comparison(Section):
    """A set of experiments on one model and one set of experts."""

    name: Name
    base: Path = Field(description="the run's configuration that all variants start from")
    set: dict[str, Any] = Field(default={}, description="dotted.key -> value, for all variants")
    seeds: tuple[int, ...] = Field(min_length=2, description="an interval needs at least two")
    concurrency: PositiveInt = Field(default=2, description="runs under way at once")
    loop: Literal["distributed", "reference"] = Field(
        default="distributed",
        description="reference runs every variant by the plain loop in a process of its own, without Ray: the same students, "
        "and CPU seconds, which other work on the machine hardly touches",
    )
    experiments: dict[Name, Experiment] = Field(min_length=1)

    @model_validator(mode="after")
    def _experts_are_shared(self) -> "Comparison":
        for name, experiment in self.experiments.items():
            for label, variant in experiment.variants.items():
                for key in variant.set:
                    if key.split(".")[0] in ("experts", "model", "encoder"):
                        raise ValueError(
                            f"experiments.{name}.variants.{label}.set: {key} would be another service; all variants use the "
                            "services of the comparison: set it there"
                        )
        return self

    @model_validator(mode="after")
    def _the_plain_loop_examines_unguided(self) -> "Comparison":
        for name, experiment in self.experiments.items():
            for label, variant in experiment.variants.items():
                if self.loop == "reference" and variant.guidance != (1.0,):
                    raise ValueError(
                        f"experiments.{name}.variants.{label}.guidance: {list(variant.guidance)}; "
                        "with loop: reference students take the exam at scale 1 alone"
                    )
        return self
