"""What a run teaches from some step on, and whom it asks."""

from collections.abc import Mapping
from dataclasses import dataclass

from fields.dataset import Bucket
from fields.plan import SamplePlan
from fields.teaching import Teaching
from services.expert_client import ExpertClient


@dataclass(frozen=True, slots=True, kw_only=True)
class Curriculum:
    """What can change while a run goes on.

    Attributes:
        plan: which samples a step has.
        buckets: route -> its rows.
        experts: name -> the way to the expert.
        teaching: which experts answer a route.
    """

    plan: SamplePlan
    buckets: Mapping[str, Bucket]
    experts: Mapping[str, ExpertClient]
    teaching: Teaching
