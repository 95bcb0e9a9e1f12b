"""What a run teaches from some step on, and whom it asks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fields.data.bucket import Bucket
from fields.data.size import Size
from fields.method.plan import Group, SamplePlan
from fields.method.states import RolloutSettings
from fields.method.teaching import Teaching
from services.encoders import Encoders
from services.expert_client import ExpertClient


@dataclass(frozen=True, slots=True, kw_only=True)
class Curriculum:
    """What can change while a run goes on.

    Attributes:
        plan: which samples a step has.
        buckets: route -> its rows.
        encoders: of the condition, for all models that experts are of.
        experts: name -> the way to the expert.
        teaching: which experts answer a route.
        expert_rollouts: by the size of an image, how experts roll out, whose states are then asked at (off-policy); None when
            the student rolls out, or data is noised, which the workers do.
        reads_targets: whether the encoder encodes the rows' target images too.
        reads_empty: the routes at whose samples something reads the velocity without the prompt too.
        reads: expert -> the models beside the run's own that its networks are of; no entry is none.
    """

    plan: SamplePlan
    buckets: Mapping[str, Bucket]
    encoders: Encoders
    experts: Mapping[str, ExpertClient]
    teaching: Teaching
    expert_rollouts: Callable[[Size | None], RolloutSettings] | None = None
    reads_targets: bool = False
    reads_empty: frozenset[str] = frozenset()
    reads: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def models(self, group: Group) -> list[str]:
        """The models beside the run's own that read the rows of a group."""
        return sorted({model for name in self.teaching.lesson(group).asked for model in self.reads.get(name, ())})


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Another curriculum from a step on.

    Attributes:
        step: that it takes effect at.
        build_curriculum: of the whole run; it has the same samples as the one before in earlier steps.
        settings: what changes, for the record.
        replaced: the recipe that it was made for.
        recipe: that is stored with checkpoints from now on.
    """

    step: int
    build_curriculum: Callable[[], Curriculum]
    settings: Mapping[str, Any]
    replaced: Mapping[str, Any]
    recipe: Mapping[str, Any]
