"""From a YAML file and `dotted.key=value` overrides to a configuration, or to one line that says what is wrong, and where."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from fields.shown import one_line, shown
from pipelines.config.base import Section
from pipelines.config.errors import ConfigError
from pipelines.config.run import RunConfig

S = TypeVar("S", bound=Section)

_MOST_BYTES = 2**20
_MOST_NODES = 10**5
_MERGE = "tag:yaml.org,2002:merge"
_NOT_YAML = (yaml.YAMLError, ValueError, RecursionError, AttributeError)  # dates that are none, numbers of 5000 digits, depth


def load_config(path: Path, overrides: Sequence[str]) -> RunConfig:
    """Read a run's YAML file and apply `dotted.key=value` overrides; values are YAML.

    Raises:
        ConfigError: names the file and line where the key stands, the key, the value and what is allowed.
    """
    return load(path, RunConfig, settings(overrides))


def settings(overrides: Sequence[str]) -> dict[str, Any]:
    """`dotted.key=value` as dotted key -> value.

    Raises:
        ConfigError: for one that is not written so.
    """
    return dict(_split(override) for override in overrides)


def load(path: Path, kind: type[S], changes: Mapping[str, Any]) -> S:
    """Read a YAML file as a section of some kind, with the values of dotted keys replaced.

    Raises:
        ConfigError: as `load_config`.
    """
    text = _text(path)
    try:
        content = deepcopy(_parsed(text))
    except _NOT_YAML as error:
        raise ConfigError(f"{path} is not YAML: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: a configuration is a mapping of sections, not {type(content).__name__}")
    for key, value in changes.items():
        put(content, key, value)
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        key, message = _first_error(error, kind)
        written_here = not any(f"{key}.".startswith(f"{change}.") for change in changes)
        line = _line(text, key.split(".")) if written_here else None
        raise ConfigError(f"{path}:{line}: {message}" if line else message) from error


def _text(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path} is no file")
        if (size := path.stat().st_size) > _MOST_BYTES:
            raise ConfigError(f"{path} has {size} bytes; a configuration has {_MOST_BYTES} at most")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no text in UTF-8") from error


class _Loader(yaml.SafeLoader):
    """Reads plain values. A key that comes twice is an error, as one of the two would be lost; and so are aliases of aliases
    with which a kilobyte stands for gigabytes."""

    def __init__(self, text: str):
        super().__init__(text)
        self._sizes: dict[int, int] = {}  # of what a node stands for, with what its aliases stand for

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        mark = self.peek_event().start_mark
        node = super().compose_node(parent, index)
        if node is not None and id(node) not in self._sizes:  # an alias is the node that it stands for
            below = node.value if isinstance(node, yaml.SequenceNode | yaml.MappingNode) else []
            parts = [part for item in below for part in (item if isinstance(item, tuple) else (item,))]
            self._sizes[id(node)] = 1 + sum(self._sizes[id(part)] for part in parts)
            if self._sizes[id(node)] > _MOST_NODES:
                raise yaml.MarkedYAMLError(problem=f"its aliases stand for more than {_MOST_NODES} values", problem_mark=mark)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE]
        if repeated := [name for number, name in enumerate(names) if name in names[:number]]:
            raise yaml.MarkedYAMLError(problem=f"the key {repeated[0]!r} comes twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


@cache
def _parsed(text: str) -> Any:
    """A YAML text; a comparison reads its base once a run."""
    return yaml.load(text, _Loader)  # a loader of plain values


def _split(override: str) -> tuple[str, Any]:
    key, equals, value = override.partition("=")
    if not equals or not all(key.split(".")):
        raise ConfigError(f"{override!r}: an override is written dotted.key=value")
    try:
        return key, yaml.load(value, _Loader)
    except _NOT_YAML as error:
        raise ConfigError(f"{override!r}: the value is not YAML") from error


def validated(content: Mapping[str, Any], kind: type[S]) -> S:
    """Plain values as a section of some kind.

    Raises:
        ConfigError: names the key, the value and what is allowed.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise ConfigError(_first_error(error, kind)[1]) from error


def put(content: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key in nested mappings.

    Raises:
        ConfigError: if a part of the key stands for a value.
    """
    *parts, last = key.split(".")
    section = content
    for part in parts:
        below = section.setdefault(part, {})
        if not isinstance(below, dict):
            raise ConfigError(f"'{key}={value}': {part} is {below!r}, which has no keys")
        section = below
    section[last] = value


def _first_error(error: ValidationError, kind: type[Section]) -> tuple[str, str]:
    """Pydantic's first error: the dotted key, and one line with the key, what is wrong, what is allowed."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        return key, f"{key}: unknown key; allowed: {', '.join(_allowed_keys(first['loc'][:-1], kind))}"
    if first["type"] == "missing":
        return key, f"{key}: this key is required"
    if first["type"] == "value_error":
        return (key, f"{key}: {message}") if key else (message.partition(":")[0], message)
    return key, f"{key}: {message} (got {shown(first['input'])})"


def _allowed_keys(location: tuple[int | str, ...], kind: type[Section]) -> list[str]:
    """The keys of the section at a location of pydantic's, found by walking the annotated types."""
    schema = kind.model_json_schema()
    here: dict[str, Any] = _resolve(schema, schema)
    for part in location:
        if part in here.get("properties", {}):
            here = here["properties"][part]
        elif "oneOf" in here:
            kinds = [_resolve(alternative, schema) for alternative in here["oneOf"]]
            here = next(k for k in kinds if k.get("properties", {}).get("type", {}).get("const") == part)
        elif "anyOf" in here:
            here = here["anyOf"][0]
        elif "items" in here:
            here = here["items"]
        else:  # a mapping by name
            here = here.get("additionalProperties") or next(iter(here["patternProperties"].values()))
        here = _resolve(here, schema)
    return list(here["properties"])


def _resolve(here: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in here:
        here = schema["$defs"][here["$ref"].rsplit("/", 1)[1]]
    return here


def _line(text: str, key: list[str]) -> int | None:
    """The line of a dotted key in a YAML text, or of the innermost part of it that the text has."""
    node, line = yaml.compose(text), None
    for part in key:
        below = None
        if isinstance(node, yaml.MappingNode):
            below = next((value for name, value in node.value if name.value == part), None)
        elif isinstance(node, yaml.SequenceNode) and part.isdecimal() and int(part) < len(node.value):
            below = node.value[int(part)]
        if below is not None:  # what a location has beside keys are the tags of unions
            node, line = below, below.start_mark.line + 1
    return line
