"""Prompts to generate images from: a text file, a table, or a data set."""

from collections.abc import Iterator
from pathlib import Path

from fields.data.bucket import Bucket
from fields.data.rows import Row
from pipelines.data.tables import read_table


def read_prompts(path: Path) -> Iterator[Row]:
    """The rows of a .txt (one prompt per line), .json, .jsonl, .csv or .parquet file, in order.

    Raises:
        ValueError: if there is no such file or no row in it, or a row is wrong; names the file and the row.
    """
    if path.suffix == ".txt":
        return _lines(path)
    if path.suffix == ".parquet":
        bucket = Bucket(path)
        return (bucket[n] for n in range(len(bucket)))
    return read_table(path)


def _lines(path: Path) -> Iterator[Row]:
    if not path.is_file():
        raise ValueError(f"no such file: {path}")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from error
    for number, line in enumerate(lines, start=1):
        if prompt := line.strip():
            yield Row(f"line-{number}", "prompt", prompt)
