"""What changed while a run went on: from which optimizer step on, and how a run that continues repeats it.

A change only adds to the configuration: a weight of a route from a step on, an expert, a route that is drawn from a step on.
So the steps before it are the same with the change as without it.
"""

from collections.abc import Mapping
from typing import Any

from actors.journal import CHANGES, rows
from pipelines.config import RunConfig
from pipelines.load import ConfigError, put, validated
from pipelines.method_config import SoftRouting

Settings = Mapping[str, Any]  # dotted key -> value


def with_recorded_changes(config: RunConfig) -> RunConfig:
    """The configuration with the changes that stand in the run's folder.

    Raises:
        ConfigError: if one doesn't fit the configuration as it is now.
    """
    record = config.folder / CHANGES
    for row in rows(record):
        try:
            config = changed(config, row["step"], row["set"])
        except ConfigError as error:
            raise ConfigError(f"{record}, step {row['step']}: {error}") from error
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
            _require_mixed(config, name)
            weight, before = route.get("weight", 1.0), 0.0
        elif f"routes.{name}.weight" in settings:
            weight, before = route["weight"], config.routes[name].weight
        else:
            continue
        route |= {"weight": before, "weight_changes": {**route.get("weight_changes", {}), str(step): weight}}
    return validated(content, RunConfig)


def _require_changeable(config: RunConfig, key: str) -> None:
    match key.split("."):
        case ["routes", name, "weight"] if name in config.routes:
            return
        case ["routes", name, *_] if name not in config.routes:
            return
        case ["experts", name, *_] if name not in config.experts:
            return
    raise ConfigError(
        f"{key}: it stays as it is while a run goes on; what can change is routes.NAME.weight, and new experts and routes "
        f"can come (there are the experts {', '.join(config.experts)} and the routes {', '.join(config.routes)})"
    )


def _require_mixed(config: RunConfig, route: str) -> None:
    if isinstance(config.routing, SoftRouting):
        raise ConfigError(
            f"routes.{route}: soft routing mixes the experts of all routes; a route cannot come to a run that does"
        )
