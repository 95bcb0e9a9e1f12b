"""Whether a LoRA student can start as an adapter does: both need the same rank and the same modules."""

from collections.abc import Sequence

from torch import nn

from fields.lora.adapter import Adapter, LoraShape, adapted_modules, linear_modules, targeted_modules
from pipelines.config.errors import ConfigError


def require_shape(key: str, adapter: Adapter, student: LoraShape, transformer: nn.Module) -> None:
    """Refuse an adapter that a student of this shape cannot start as. Another alpha is no obstacle: B takes the ratio.

    Raises:
        ConfigError: says which keys of the student to set.
    """
    modules = adapted_modules(adapter.tensors)
    ranks = sorted({adapter.shape.ranks.get(module, adapter.shape.rank) for module in modules})
    if len(ranks) > 1:
        raise ConfigError(
            f"{key} has ranks from {ranks[0]} to {ranks[-1]}, a student has one rank: start at a merge, which is cut to it "
            f"(student.start={{type: merge, experts: {{NAME: 1}}}} with the adapter as an expert NAME), or at the base"
        )
    if ranks != [student.rank]:
        alpha = student.alpha * ranks[0] / student.rank
        raise ConfigError(
            f"{key} has rank {ranks[0]}, student.rank is {student.rank}: set student.rank={ranks[0]} student.alpha={alpha:g} "
            "(alpha / rank stays as it is)"
        )
    require_modules(key, modules, student, transformer)


def require_modules(key: str, modules: Sequence[str], student: LoraShape, transformer: nn.Module) -> None:
    """Refuse a start that changes other modules than the student trains.

    Raises:
        ConfigError: says which `student.targets` are those of the start.
    """
    trained = targeted_modules(transformer, student.targets)
    if set(modules) == set(trained):
        return
    missing, more = sorted(set(trained) - set(modules)), sorted(set(modules) - set(trained))
    differ = [f"{len(names)} {what} ({names[0]})" for what, names in (("missing", missing), ("more", more)) if names]
    raise ConfigError(
        f"{key} changes other modules than student.targets name, {' and '.join(differ)}: "
        f"set student.targets=[{','.join(_targets(modules, linear_modules(transformer)))}]"
    )


def _targets(modules: Sequence[str], every: Sequence[str]) -> list[str]:
    """The shortest endings of names that name these modules and no others. They begin at a word: `to_out.0`, not `0`."""
    others = [f".{name}" for name in set(every) - set(modules)]
    endings = set()
    for module in modules:
        parts = module.split(".")
        candidates = (".".join(parts[n:]) for n in reversed(range(len(parts))) if not parts[n].isdecimal())
        endings.add(next((c for c in candidates if not any(o.endswith(f".{c}") for o in others)), module))
    return sorted(endings)
