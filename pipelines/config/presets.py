"""Named methods of the family, as what they say about its axes."""

from typing import Any, Literal

Preset = Literal["danceopd", "fast", "diffusionopd", "flowopd", "offpolicy", "softmix", "joint_sft"]

_ON_POLICY: dict[str, Any] = {
    "state": {"type": "student_ode"},
    "query": {"type": "beta"},
    "routing": {"type": "hard"},
    "objective": {"type": "mse"},
}
PRESETS: dict[str, dict[str, Any]] = {
    "danceopd": _ON_POLICY,
    "fast": _ON_POLICY | {"state": {"type": "noised_data"}, "query": {"type": "uniform"}},
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
_BESIDE_AXES: dict[str, dict[str, Any]] = {  # what a preset says of other sections
    "fast": {
        "rollout": {"steps": 8, "mix_routes": True},
        "student": {"type": "lora", "start": {"type": "regression"}},
        "eval": {"steps": 16},
    }
}


def expand(content: dict[str, Any]) -> dict[str, Any]:
    """Fill what a preset decides, and the types that the defaults imply; what the user wrote stays.

    A key below an axis keeps the preset's type: `query: {k: 2}` under `danceopd` is Beta(5, 2) with two queries.
    """
    preset = str(content.get("preset"))
    axes = {axis: {"type": default["type"]} for axis, default in _ON_POLICY.items()} | PRESETS.get(preset, {})
    expanded = dict(content)
    for section, start in (axes | _BESIDE_AXES.get(preset, {})).items():
        written = content.get(section, {})
        if isinstance(written, dict):
            of_its_type = written.get("type", start.get("type")) == start.get("type") or "type" not in start
            expanded[section] = {**start, **written} if of_its_type else written
    return expanded
