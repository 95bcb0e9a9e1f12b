"""Operators: a field made of evaluations of others, at the same (x_t, t).

An expression is a tree. Its leaves are networks under a variant of the condition (`Branch`), its nodes say what is made of
them, in float32. Branches of one network are evaluated in one batched forward. All operators are stateless.
"""

from fields.operators.combination import Interpolation, Mix
from fields.operators.expression import Branch, Expression, Network, evaluate
from fields.operators.guidance import AdaptiveProjectedGuidance, Autoguidance, EditGuidance, Guidance, Rescale, ZeroStarGuidance

__all__ = [
    "AdaptiveProjectedGuidance",
    "Autoguidance",
    "Branch",
    "EditGuidance",
    "Expression",
    "Guidance",
    "Interpolation",
    "Mix",
    "Network",
    "Rescale",
    "ZeroStarGuidance",
    "evaluate",
]
