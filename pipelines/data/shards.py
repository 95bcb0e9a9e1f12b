"""Rows of published data sets: one Parquet file, or a folder of them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fields.data.row_groups import RowGroups


def shard_rows(source: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every row of every file, in the order of their names, with a text that says where it stands; a row group at a time.

    Args:
        source: a Parquet file, or a folder of them.
        columns: which are read; the first names the row in messages.

    Raises:
        ValueError: if there is no such file, it is not Parquet, or it lacks a column; names it.
    """
    paths = sorted(source.glob("*.parquet")) if source.is_dir() else [source]
    if not paths:
        raise ValueError(f"{source} has no Parquet files")
    for path in paths:
        groups = RowGroups(path)
        if missing := [name for name in columns if name not in groups.schema.names]:
            raise ValueError(f"{path} lacks column {missing[0]!r}; it has {', '.join(groups.schema.names)}")
        for number in range(len(groups)):
            values = groups.row(number, columns)
            yield f"{path} row {number} ({values[columns[0]]!r})", values


def image_bytes(value: Any, where: str) -> bytes:
    """An image's bytes; published data sets often wrap them as {bytes, path}.

    Raises:
        ValueError: if there are none; `where` names file, row and column.
    """
    data = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(data, bytes):
        raise ValueError(f"{where} holds no encoded image")
    return data
