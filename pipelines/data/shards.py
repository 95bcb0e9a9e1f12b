"""Rows of published data sets: one Parquet file, or a folder of them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fields.data.columns import check_names
from fields.data.row_groups import RowGroups
from fields.shown import shown


def shard_rows(source: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every row of every file, in the order of their names, with a text that says where it stands; a row group at a time.

    Args:
        source: a Parquet file, or a folder of them.
        columns: which are read; the first names the row in messages.

    Raises:
        ValueError: if there is no such file, it is not Parquet, or it lacks a column or has it twice; names it.
    """
    for path in shard_paths(source):
        groups = RowGroups(path)
        check_names(path, groups.schema.names, columns)
        for number in range(len(groups)):
            values = groups.row(number, columns)
            yield f"{path} row {number} ({shown(values[columns[0]])})", values


def shard_paths(source: Path) -> list[Path]:
    """The Parquet files of a folder in the order of their names, or the one file.

    Raises:
        ValueError: if the folder has none.
    """
    paths = sorted(source.glob("*.parquet")) if source.is_dir() else [source]
    if not paths:
        raise ValueError(f"{source} has no Parquet files")
    return paths


def image_bytes(value: Any, where: str) -> bytes:
    """An image's bytes; published data sets often wrap them as {bytes, path}.

    Raises:
        ValueError: if there are none; `where` names file, row and column.
    """
    data = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(data, bytes):
        raise ValueError(f"{where} holds no encoded image")
    return data
