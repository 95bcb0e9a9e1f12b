"""From an entry of a JSON or CSV file that a person wrote to a row, or to one line that says what is wrong."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fields.data.columns import COLUMNS, IMAGES, LISTS, NUMBERS, REQUIRED, SCORES, SOURCES, TARGET_FRAMES, TEXTS
from fields.data.images import read_inside
from fields.data.rows import Row, source_fields
from fields.shown import shown
from pipelines.data.writer import with_size


def row_of(entry: Mapping[str, Any], folder: Path, where: str) -> Row:
    """An entry as a row; images are paths relative to the folder and are read in; null is the same as missing.

    Raises:
        ValueError: for a missing, unknown or ill-typed field, or an image that is missing or cannot be read; `where`
            names file and line.
    """
    given = {name: value for name, value in entry.items() if value is not None}
    if unknown := [name for name in given if name not in COLUMNS]:
        raise ValueError(f"{where}: unknown field {shown(unknown[0])}; allowed: {', '.join(COLUMNS)}")
    if missing := [name for name in REQUIRED if name not in given]:
        raise ValueError(f"{where}: {missing[0]} is missing; there is {', '.join(given) or 'nothing'}")
    for name, value in given.items():
        _require_type(name, value, where)
    for name in IMAGES:
        if name in given:
            given[name] = read_inside(folder, given[name], f"{where}: {name}")
    several, given[TARGET_FRAMES] = (
        tuple(read_inside(folder, path, f"{where}: {name}") for path in given.pop(name, ()))
        for name in (SOURCES, TARGET_FRAMES)
    )
    given |= source_fields(given.get("source_image"), several, where)
    if SCORES in given:
        given[SCORES] = tuple(given[SCORES].items())
    try:
        return with_size(Row(**given))
    except ValueError as error:  # names the row
        raise ValueError(f"{where}: {error}") from error


def _require_type(name: str, value: Any, where: str) -> None:
    if name in NUMBERS:
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= NUMBERS[name]:
            raise ValueError(f"{where}: {name} is {shown(value)}; it must be a whole number from 1 to {NUMBERS[name]}")
    elif name in LISTS:
        most = LISTS[name]
        if not isinstance(value, list) or not 1 <= len(value) <= most or not all(isinstance(p, str) for p in value):
            raise ValueError(f"{where}: {name} is {shown(value)}; it must be a list of 1 to {most} paths of images")
    elif name == SCORES:
        numbers = isinstance(value, dict) and all(isinstance(score, int | float) for score in value.values())
        if not numbers:
            raise ValueError(f"{where}: {name} is {shown(value)}; it must be an object of routes and their scores")
    elif not isinstance(value, str):
        wanted = "text" if name in TEXTS else "the path of an image"
        raise ValueError(f"{where}: {name} is {shown(value)}; it must be {wanted}")
