"""What changed while a run went on: from which optimizer step on, and how a run that continues repeats it.

A change only adds to the configuration: a weight of a route from a step on, an expert, a route that is drawn from a step on.
So the steps before it are the same with the change as without it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actors.journal import CHANGES, rows
from fields.shown import shown
from pipelines.config.errors import ConfigError, input_refused
from pipelines.config.load import load_config, put, validated
from pipelines.config.routing import SoftRoutingConfig
from pipelines.config.run import RunConfig

Settings = Mapping[str, Any]  # dotted key -> value


def recorded_config(folder: Path) -> RunConfig:
    """The configuration of a run as it is now: what it was begun with, and what changed since.

    Raises:
        ConfigError: if a file of the folder is missing or damaged.
    """
    return with_recorded_changes(load_config(folder / "config.yaml", []), folder)


def with_recorded_changes(config: RunConfig, folder: Path) -> RunConfig:
    """A configuration, which knows nothing of them yet, with the changes that stand in a run's folder.

    Raises:
        ConfigError: if one doesn't fit the configuration as it is now.
    """
    record = folder / CHANGES
    with input_refused():
        recorded = rows(record)
    for row in recorded:
        step, settings = row.get("step"), row.get("set")
        if not isinstance(step, int) or not isinstance(settings, dict):
            raise ConfigError(f"{record}: a change has a step and what is set, not {shown(row)}")
        try:
            config = changed(config, step, settings)
        except ConfigError as error:
            raise ConfigError(f"{record}, step {step}: {error}") from error
    return config


def changed(config: RunConfig, step: int, settings: Settings) -> RunConfig:
    """The configuration with `settings` from an optimizer step on.

    Raises:
        ConfigError: names the key that cannot change, or what is wrong with its value.
    """
    content = config.model_dump(mode="json")
    for key, value in settings.items():
        _require_changeable(config, key)
        put(content, key, value)
    for name, route in content["routes"].items():
        if name not in config.routes:
            _require_new(config, name, route)
            weight, before = route.get("weight", 1.0), 0.0
        elif f"routes.{name}.weight" in settings:
            weight, before = route["weight"], config.routes[name].weight
        else:
            continue
        changes = {int(first): later for first, later in route.get("weight_changes", {}).items()}
        route |= {"weight": before, "weight_changes": {**changes, step: weight}}
    return validated(content, RunConfig)


def _require_changeable(config: RunConfig, key: str) -> None:
    match key.split("."):
        case ["routes", name, "weight"] if name in config.routes:
            return
        case ["routes", name, *_] if name not in config.routes:
            return
        case ["experts", name, *_] if name not in config.experts:
            return
        case _:
            raise ConfigError(
                f"{key}: it stays as it is while a run goes on; what can change is routes.NAME.weight, and new experts and "
                f"routes can come (there are the experts {', '.join(config.experts)} and the routes {', '.join(config.routes)})"
            )


def _require_new(config: RunConfig, name: str, route: Any) -> None:
    if isinstance(config.routing, SoftRoutingConfig):
        raise ConfigError(f"routes.{name}: soft routing mixes the experts of all routes; no route can come to such a run")
    if not isinstance(route, dict):
        raise ConfigError(f"routes.{name}: a route has the keys expert and data, and may have a weight; this is {route!r}")
    if "weight_changes" in route:
        raise ConfigError(f"routes.{name}.weight_changes: a route that comes has one weight; change it later")
