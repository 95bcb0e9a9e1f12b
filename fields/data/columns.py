"""The columns of a data set: their names, which of them must be there, and their types."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from fields.shown import listed, one_line

REQUIRED = ("uid", "task", "prompt")
TEXTS = (*REQUIRED, "negative_prompt")
TARGET = "target_image"
IMAGES = ("source_image", TARGET)
SOURCES, TARGET_FRAMES = "source_images", "target_frames"
SIZES = ("width", "height")
FRAMES = "frames"
SCORES = "scores"
MOST_SOURCES = 16  # source images of a row
LONGEST_SIDE = 100_000  # pixels; beyond it a size is a mistake
MOST_FRAMES = 1_000  # of a clip; no model makes so many
LISTS = {SOURCES: MOST_SOURCES, TARGET_FRAMES: MOST_FRAMES}  # a column of images -> how many a row may have
NUMBERS = {**dict.fromkeys(SIZES, LONGEST_SIDE), FRAMES: MOST_FRAMES}  # a column of whole numbers -> the largest
COLUMNS = (*TEXTS, *IMAGES, *LISTS, *NUMBERS, SCORES)


def check_columns(path: Path, schema: pa.Schema) -> list[str]:
    """The columns of a file that a data set reads, in the order of COLUMNS; others are ignored.

    Raises:
        ValueError: if a required column is missing, or one comes twice or has a wrong type.
    """
    columns = [name for name in COLUMNS if name in schema.names]
    check_names(path, schema.names, (*REQUIRED, *columns))
    for name in columns:
        if not _fits(name, found := schema.field(name).type):
            raise ValueError(f"{path}: column {name!r} is {one_line(found)}; it must be {_wanted(name)}")
    return columns


def check_names(path: Path, names: Sequence[str], wanted: Sequence[str]) -> None:
    """Check that a file has every column that is wanted of it, once.

    Args:
        path: of the file.
        names: of its columns.
        wanted: names of the columns that are read.

    Raises:
        ValueError: for the first that is missing or comes twice.
    """
    for name in wanted:
        if name not in names:
            raise ValueError(f"{path} lacks column {name!r}; it has {listed(names)}")
        if names.count(name) > 1:
            raise ValueError(f"{path} has {names.count(name)} columns {name!r}; every name must be one column's")


def _fits(name: str, found: pa.DataType) -> bool:
    kind = found.value_type if isinstance(found, pa.DictionaryType) else found
    if pa.types.is_null(kind):  # a column without a single value
        return name not in REQUIRED
    if name in NUMBERS:
        return pa.types.is_integer(kind)
    if name == SCORES:
        return pa.types.is_map(kind) and _is_text(kind.key_type) and pa.types.is_floating(kind.item_type)
    if name in LISTS:
        return (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and _holds_images(kind.value_type)
    return _holds_images(kind) if name in IMAGES else _is_text(kind)


def _holds_images(kind: pa.DataType) -> bool:
    return _is_text(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _wanted(name: str) -> str:
    if name in NUMBERS:
        return "a whole number"
    if name == SCORES:
        return "a map of string (routes) to double (scores)"
    if name in LISTS:
        return "a list of binary (encoded images) or of string (paths)"
    return "binary (encoded images) or string (paths)" if name in IMAGES else "string"
