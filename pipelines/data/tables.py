"""JSON, JSON lines and CSV as data sets: fields are named like the columns, images are paths relative to the file."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fields.data.columns import NUMBERS, REQUIRED, check_names
from fields.data.rows import Row
from pipelines.data.entries import row_of
from pipelines.data.writer import RowWriter

Entries = Iterator[tuple[str, dict[str, Any]]]  # where it stands, and what stands there


def import_table(source: Path, output: Path, area: int | None = None) -> list[Path]:
    """Write the rows of a .json, .jsonl or .csv file as Parquet, in buckets of an area; images are read into it.

    Raises:
        ValueError: names the file, the line (of JSON: the entry) and what is wrong; nothing is written then.
    """
    with RowWriter(output, area, inputs=[source]) as writer:
        for row in read_table(source):
            writer.write(row)
    return [output]


def read_table(source: Path) -> Iterator[Row]:
    """The rows of a .json (a list), .jsonl (one object per line) or .csv (with a header) file, in order, one at a time.

    Raises:
        ValueError: as `import_table`.
    """
    if source.suffix not in _READERS:
        raise ValueError(f"{source}: rows are read from {', '.join(_READERS)}")
    if not source.is_file():
        raise ValueError(f"no such file: {source}")
    try:
        for where, entry in _READERS[source.suffix](source):
            yield row_of(entry, source.parent, where)
    except RecursionError as error:
        raise ValueError(f"{source} has lists or objects in one another, deeper than can be read") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{source} is not UTF-8: {error.reason} at byte {error.start}") from error


def _json(source: Path) -> Entries:
    content = _parsed(source.read_text(encoding="utf-8-sig"), str(source))
    if not isinstance(content, list):
        raise ValueError(f"{source} holds {type(content).__name__}; it must be a list of objects")
    for number, entry in enumerate(content, start=1):
        yield _object(entry, f"{source} entry {number}")


def _json_lines(source: Path) -> Entries:
    with source.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                where = f"{source} line {number}"
                yield _object(_parsed(line, where), where)


def _csv(source: Path) -> Entries:
    with source.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, strict=True)
        try:
            header = reader.fieldnames or []
            check_names(source, header, [*REQUIRED, *header])
            for cells in reader:
                where = f"{source} line {reader.line_num}"
                if None in cells or None in cells.values():
                    raise ValueError(f"{where} has not as many cells as the header, which has {len(header)}")
                yield where, {name: _cell(name, cell) for name, cell in cells.items()}
        except csv.Error as error:
            raise ValueError(f"{source} line {reader.reader.line_num} is not CSV: {error}") from error


def _cell(name: str, cell: str) -> str | int | None:
    """A cell's value; an empty cell is None, but an empty prompt is a prompt."""
    if cell == "" and name not in REQUIRED:
        return None
    return int(cell) if name in NUMBERS and cell.isdecimal() and len(cell) < 10 else cell


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:  # JSONDecodeError, or a number of thousands of digits
        raise ValueError(f"{where} is not JSON: {error}") from error


def _object(entry: Any, where: str) -> tuple[str, dict[str, Any]]:
    if not isinstance(entry, dict):
        raise ValueError(f"{where} is {json.dumps(entry)[:40]}; it must be an object")
    return where, entry


_READERS = {".json": _json, ".jsonl": _json_lines, ".csv": _csv}
