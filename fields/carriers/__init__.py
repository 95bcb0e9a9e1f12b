"""What crosses process boundaries. Every carrier validates itself where it is built, hence also on receipt."""

from fields.carriers.carrier import Tensors
from fields.carriers.condition import DISTILLED_GUIDANCE, GIVEN, Condition, Variant
from fields.carriers.example import Example, Query, Target
from fields.carriers.sealed import Outline, Sealed, SealedQueries
from fields.carriers.transfer import on_device
from fields.carriers.weights import Weights, checksum

__all__ = [
    "DISTILLED_GUIDANCE",
    "GIVEN",
    "Condition",
    "Example",
    "Outline",
    "Query",
    "Sealed",
    "SealedQueries",
    "Target",
    "Tensors",
    "Variant",
    "Weights",
    "checksum",
    "on_device",
]
