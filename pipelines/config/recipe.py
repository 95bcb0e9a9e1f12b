"""The settings that decide a student: what a run that continues must have in common with its checkpoint."""

from collections.abc import Collection, Mapping
from typing import Any

from pipelines.config.run import RunConfig
from pipelines.config.sharing import summing_ranks

_SAME_BITS = {"recompute", "gpu", "shard"}  # the micro-batch, which they may decide, stands beside them
_RESOURCES = {"replicas", "autoscaling", "workers", "ranks", "num_cpus", "num_gpus", "node_labels", "cache_bytes"}
_BESIDE = {"checkpoint", "eval", "encoder", "preset"}
_SUMMING_RANKS = "summing_ranks"  # where they share a full student; otherwise their number changes no bit

Recipe = Mapping[str, Any]


def recipe(config: RunConfig, *, without_defaults: bool = False) -> dict[str, Any]:
    """The settings that decide the student, as plain values.

    Left out is what may change on the way: the run's name, folder and length, and everything about resources and memory.

    Args:
        config: of the run.
        without_defaults: leave out settings that are the defaults, so that a key that comes later changes nothing; the seed
            and what `rollout.merge` became stay.
    """

    def essential(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: essential(item) for key, item in value.items() if key not in _RESOURCES | _SAME_BITS}
        return value

    everything = config.model_dump(mode="json", exclude_defaults=without_defaults)
    recipe = {key: essential(value) for key, value in everything.items() if key not in _BESIDE}
    recipe["run"] = {"seed": config.run.seed}
    recipe["rollout"] = recipe.get("rollout", {}) | {"merge": config.rollout.merges}
    if (ranks := summing_ranks(config)) > 1:
        recipe[_SUMMING_RANKS] = ranks
    return recipe


def recorded_ranks(recipe: Recipe) -> int:
    """Into how many ranks' parts the sums of a gradient were split: 1 if they are the sums of one process."""
    return recipe.get(_SUMMING_RANKS, 1)


def until(recipe: Recipe, step: int) -> Recipe:
    """What of a recipe decides the first `step` optimizer steps: no later weights, and no route that comes later."""
    routes = {}
    for name, route in recipe["routes"].items():
        changes = {first: weight for first, weight in route.get("weight_changes", {}).items() if int(first) < step}
        if route["weight"] or any(changes.values()):
            routes[name] = {**route, "weight_changes": changes}
    return {**recipe, "routes": routes}


def recipe_differences(now: Recipe, saved: Recipe, step: int) -> list[str]:
    """Where the recipe of a run differs from that of its checkpoint after `step` steps, as `dotted.key: saved -> now`.

    Another number of ranks that order sums is no difference: the student is as good, and only its last bits are others.
    """
    known = {name: expert for name, expert in now["experts"].items() if name in saved["experts"]}  # others may have come since
    ranks = {_SUMMING_RANKS: recorded_ranks(saved)}
    both = now["routes"].keys() & saved["routes"].keys() if now["routing"]["type"] == "scored" else set()
    return differences({**_until(now, step, both), "experts": known, **ranks}, {**_until(saved, step, both), **ranks})


def completed(saved: Recipe, config: RunConfig) -> Recipe:
    """A saved recipe with the keys that the configuration got since it was saved, where this run leaves them at their defaults.

    Args:
        saved: by this version, or by one that knew fewer keys.
        config: of the run that continues.
    """
    return _completed(saved, recipe(config), recipe(config, without_defaults=True))


def _completed(saved: Any, now: Any, written: Any) -> Any:
    if not (isinstance(saved, Mapping) and isinstance(now, Mapping)):
        return saved
    chosen = written if isinstance(written, Mapping) else {}
    known = {name: _completed(value, now.get(name), chosen.get(name)) for name, value in saved.items()}
    return {name: value for name, value in now.items() if name not in saved and name not in chosen} | known


def _until(recipe: Recipe, step: int, named: Collection[str]) -> Recipe:
    """As `until`, with the experts of these routes: scores may name a route of which no row is drawn."""
    experts = {name: {"expert": recipe["routes"][name]["expert"]} for name in named}
    first = until(recipe, step)
    return {**first, "routes": experts | first["routes"]}


def differences(now: Any, saved: Any, key: str = "") -> list[str]:
    """Where two plain values differ, as `dotted.key: saved -> now`."""
    if not (isinstance(now, Mapping) and isinstance(saved, Mapping)):
        return [] if now == saved else [f"{key}: {saved} -> {now}"]
    found = []
    for name in sorted(now.keys() | saved.keys()):
        found += differences(now.get(name), saved.get(name), f"{key}.{name}".lstrip("."))
    return found
