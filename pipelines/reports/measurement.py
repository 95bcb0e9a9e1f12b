"""Measured figures: a table for the terminal and for a document, and the raw numbers beside it."""

import json
import os
import platform
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.table import Table

from fields.atomic import write_text
from pipelines.config.errors import ConfigError

_VERSIONS = ("torch", "ray", "diffusers")
_DOCUMENT, _NUMBERS = "performance.md", "performance.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """A table, and what it was made of.

    Attributes:
        name: of its place in the document.
        title: says the units, and how it was measured.
        columns: of the table.
        rows: of the table.
        raw: every single number, for the JSON file.
    """

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    raw: Mapping[str, Any]

    def table(self) -> Table:
        """For the terminal."""
        table = Table(title=self.title)
        for number, column in enumerate(self.columns):
            table.add_column(column, justify="right" if number else "left")
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """For the document."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        return "\n".join([f"{self.title}:", "", *(f"| {' | '.join(line)} |" for line in lines)])


def spread(values: Sequence[float]) -> list[str]:
    """Median, lowest and highest.

    >>> spread([3.0, 1.0, 2.5])
    ['2.50', '1.00', '3.00']
    """
    return [f"{value:.2f}" for value in (statistics.median(values), min(values), max(values))]


def require_places(names: Sequence[str], folder: Path) -> None:
    """Returns if the document in a folder has a place for each table.

    Raises:
        ConfigError: if there is no such document, or it has no such place.
    """
    document = folder / _DOCUMENT
    if not document.is_file():
        raise ConfigError(f"--write {folder}: there is no {document}")
    for name in names:
        if _place(name).search(document.read_text()) is None:
            raise ConfigError(f"--write {folder}: {document} has no place for {name}: <!-- {name} --> ... <!-- end -->")


def write(measurements: Sequence[Measurement], folder: Path) -> None:
    """Put each table into its place in the document, and the numbers with this machine and its versions beside it."""
    text = (folder / _DOCUMENT).read_text()
    for one in measurements:
        content = f"<!-- {one.name} -->\n{one.markdown()}\n<!-- end -->"
        text = _place(one.name).sub(lambda _, content=content: content, text)
    machine = {"cores": os.cpu_count(), "system": platform.platform(), "processor": platform.processor() or platform.machine()}
    versions = {"python": platform.python_version(), **{name: version(name) for name in _VERSIONS}}
    numbers = {one.name: {"title": one.title, **one.raw} for one in measurements}
    write_text(folder / _DOCUMENT, text)
    write_text(folder / _NUMBERS, json.dumps({"machine": machine, "versions": versions, **numbers}, indent=1) + "\n")


def _place(name: str) -> re.Pattern[str]:
    return re.compile(rf"<!-- {re.escape(name)} -->\n.*?<!-- end -->", re.DOTALL)
