"""From a YAML file and `dotted.key=value` overrides to a run configuration, or to one line that says what is wrong."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pipelines.config import RunConfig


class ConfigError(ValueError):
    """What is wrong with a configuration, in one line."""


def load_config(path: Path, overrides: list[str]) -> RunConfig:
    """Read a YAML file and apply `dotted.key=value` overrides; values are YAML.

    Raises:
        ConfigError: names the key, the value and what is allowed.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: a configuration is a mapping of sections, not {type(content).__name__}")
    for override in overrides:
        _apply(content, override)
    try:
        return RunConfig.model_validate(content)
    except ValidationError as error:
        raise ConfigError(_first_error(error)) from error


def _apply(content: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not all(parts := key.split(".")):
        raise ConfigError(f"{override!r}: an override is written dotted.key=value")
    section = content
    for part in parts[:-1]:
        below = section.setdefault(part, {})
        if not isinstance(below, dict):
            raise ConfigError(f"{override!r}: {part} is {below!r}, which has no keys")
        section = below
    try:
        section[parts[-1]] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"{override!r}: the value is not YAML") from error


def _first_error(error: ValidationError) -> str:
    """Pydantic's first error as one line: dotted key, what is wrong, what is allowed."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        return f"{key}: unknown key; allowed: {', '.join(_allowed_keys(first['loc'][:-1]))}"
    if first["type"] == "value_error":
        return f"{key}: {message}" if key else message
    return f"{key}: {message} (got {first['input']!r})"


def _allowed_keys(location: tuple[int | str, ...]) -> list[str]:
    """The keys of the section at a location of pydantic's, found by walking the annotated types."""
    schema = RunConfig.model_json_schema()
    here: dict[str, Any] = schema
    for part in location:
        here = _resolve(here, schema)
        if part in here.get("properties", {}):
            here = here["properties"][part]
        elif "discriminator" in here:
            here = {"$ref": here["discriminator"]["mapping"][part]}
        else:  # a mapping by name
            (here,) = here["patternProperties"].values()
    return list(_resolve(here, schema)["properties"])


def _resolve(here: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in here:
        here = schema["$defs"][here["$ref"].rsplit("/", 1)[1]]
    return here
