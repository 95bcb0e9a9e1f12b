"""docs/configuration.md, made from the schema of a run's configuration: a line per key."""

import json
from collections.abc import Iterator
from typing import Any

from pipelines.config.run import RunConfig

_HEAD = """# Configuration

A run is one YAML file. Every key can also be set on the command line, `learner.batch_size=16`; the value is YAML.
An unknown key is refused, with those that are allowed. `NAME` stands for a name of yours: of letters, digits, `_`, `.` and `-`.
Where a section has a `type`, the keys below a type belong to that type alone. Paths are relative to the folder of the command.

This page is made from the code by `make schema`; [config.schema.json](config.schema.json) says the same to editors.
"""
_TABLE = "\n| key | value | default | |\n|---|---|---|---|\n"
_LEAVES = {"type", "enum", "const"}
_LIMITS = {"minimum": ">= ", "exclusiveMinimum": "> ", "maximum": "<= ", "exclusiveMaximum": "< "}

Node = dict[str, Any]


def reference() -> str:
    """The page, a section per top-level key."""
    schema = RunConfig.model_json_schema()
    sections = []
    for key, node in schema["properties"].items():
        lines = "".join(f"| {' | '.join(line)} |\n" for line in _lines(key, node, schema["$defs"], ()))
        sections.append(f"\n## {key}\n\n{_about(node, schema['$defs'])}\n{_TABLE}{lines}")
    return _HEAD + "".join(sections)


def _about(node: Node, definitions: Node) -> str:
    """What a section is for, as its class says."""
    values = node.get("patternProperties", {}).values()
    if len(_sections(node)) > 1:
        return "One of several types."
    found = (definitions.get(_name(candidate), {}) for candidate in (node, *_alternatives(node), *values))
    return next((section["description"] for section in found if section), "One value.")


def _lines(key: str, node: Node, definitions: Node, above: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The lines of a key and of all below it; a section inside itself is not opened again."""
    sections = [name for name in _sections(node) if name not in above]
    typed = len(_sections(node)) > 1
    named = [value for value in node.get("patternProperties", {}).values() if _sections(value)]
    if typed or not (sections or named) or ("default" in node and node["default"] is None):
        yield _line(key, node)
    for value in named:
        yield from _lines(f"{key}.NAME", value, definitions, above)
    for name in sections:
        section = definitions[name]
        if typed:
            kind = section["properties"]["type"]["const"]
            yield f"**`{key}.type: {kind}`**", "", "", _cell(section.get("description", ""))
        for part, below in section["properties"].items():
            if "const" not in below:  # the type itself
                required = {} if part in section.get("required", ()) or "default" in below else {"default": None}
                yield from _lines(f"{key}.{part}", below | required, definitions, (*above, *_sections(node)))


def _line(key: str, node: Node) -> tuple[str, ...]:
    default = f"`{_cell(json.dumps(node['default']))}`" if "default" in node else "required"
    if isinstance(node.get("default"), dict) and "type" in node["default"]:
        default = f"`{node['default']['type']}`"
    return f"`{key}`", _cell(_value(node)), default.replace("`null`", "none"), _cell(node.get("description", ""))


def _value(node: Node) -> str:
    """What may stand there, in a few words."""
    if "enum" in node:
        return ", ".join(f"`{value}`" for value in node["enum"])
    if "const" in node:
        return f"`{node['const']}`"
    if options := _alternatives(node):
        kinds = [_value(option) for option in options if option.get("type") != "null" and not _name(option)]
        return " or ".join([*kinds, *(["a section"] if _sections(node) else [])])
    if items := node.get("prefixItems"):
        return f"[{', '.join(_value(item) for item in items)}]"
    if node.get("type") == "array":
        return f"list of {_value(node['items'])}"
    if node.get("type") == "object":
        values = [*node.get("patternProperties", {}).values(), node.get("additionalProperties")]
        value = next((value for value in values if isinstance(value, dict)), {})
        return f"mapping to {_value(value)}" if value else "mapping"
    if _name(node):
        return "a section"
    kind = {"string": "text", "integer": "whole number", "boolean": "true, false"}.get(node.get("type", ""), "number")
    kind = "path" if node.get("format") == "path" else kind
    limits = [f"{sign}{node[limit]:g}" for limit, sign in _LIMITS.items() if limit in node and abs(node[limit]) < 2**63]
    return " ".join([kind, *limits])


def _alternatives(node: Node) -> list[Node]:
    return node.get("oneOf", node.get("anyOf", []))


def _sections(node: Node) -> list[str]:
    """The names of the classes that a key's value can be."""
    return [name for candidate in (node, *_alternatives(node)) if (name := _name(candidate))]


def _name(node: Node) -> str:
    return node.get("$ref", "").rpartition("/")[2]


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
