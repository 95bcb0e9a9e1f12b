"""Named methods of the family, as what they say about its axes."""

from typing import Any, Literal

Preset = Literal["danceopd", "diffusionopd", "flowopd", "offpolicy", "softmix", "joint_sft"]

_ON_POLICY: dict[str, Any] = {
    "state": {"type": "student_ode"},
    "query": {"type": "beta"},
    "routing": {"type": "hard"},
    "objective": {"type": "mse"},
}
PRESETS: dict[str, dict[str, Any]] = {
    "danceopd": _ON_POLICY,
    "softmix": _ON_POLICY | {"routing": {"type": "soft"}},
    "diffusionopd": {
        "state": {"type": "student_ode"},
        "query": {"type": "dense"},
        "routing": {"type": "grouped"},
        "objective": {"type": "transition_kl", "form": "ode"},
    },
    "flowopd": {
        "state": {"type": "student_sde", "eta": 0.7},
        "query": {"type": "dense"},
        "routing": {"type": "hard", "granularity": "step"},
        "objective": {"type": "transition_kl", "form": "sde"},
    },
    "offpolicy": _ON_POLICY | {"state": {"type": "noised_data"}, "query": {"type": "uniform"}},
    "joint_sft": _ON_POLICY | {"state": {"type": "noised_data", "target": "data"}, "query": {"type": "uniform"}},
}


def expand(content: dict[str, Any]) -> dict[str, Any]:
    """Fill the axes that a preset decides, and the types that the defaults imply; what the user wrote stays.

    A key below an axis keeps the preset's type: `query: {k: 2}` under `danceopd` is Beta(5, 2) with two queries.
    """
    axes = PRESETS.get(str(content.get("preset")), {})
    expanded = dict(content)
    for axis, default in _ON_POLICY.items():
        written = content.get(axis, {})
        start = axes.get(axis, {"type": default["type"]})
        if isinstance(written, dict):
            expanded[axis] = {**start, **written} if written.get("type", start["type"]) == start["type"] else written
    return expanded
