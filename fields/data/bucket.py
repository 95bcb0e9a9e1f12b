"""A route's bucket: rows of a Parquet file, and how the images in them are read."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from fields.data.columns import IMAGES, LISTS, NUMBERS, REQUIRED, SCORES, SOURCES, TARGET_FRAMES, check_columns
from fields.data.images import read_inside
from fields.data.row_groups import RowGroups
from fields.data.rows import Row, check_scores, source_fields
from fields.data.size import Size
from fields.shown import shown

Pairs = Sequence[tuple[str, float | None]]  # (route, score), as a map of Parquet is read


class Bucket:
    """The rows of one route, read lazily by row group; `fields/data/row_groups.py` says which size of group is good.

    The columns `uid`, `task`, `prompt` are required; `negative_prompt`, `source_image` or `source_images`, `target_image` or
    `target_frames`, `width`, `height`, `frames` and `scores` are optional, others are ignored. A column of images holds encoded
    images, or paths relative to the file's folder.

    Raises:
        ValueError: if the file is missing, is not Parquet, lacks a required column, has one twice or of a wrong type, or has no
            rows.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self._groups = RowGroups(self.path)
        self._columns = check_columns(self.path, self._groups.schema)
        if len(self._groups) == 0:
            raise ValueError(f"{self.path} has no rows")

    def __len__(self) -> int:
        return len(self._groups)

    def __getitem__(self, number: int) -> Row:
        """A row by its number, images read in.

        Raises:
            IndexError: if there is no such row.
            ValueError: names the file, the row and the column that is empty or too long, or whose image is not there.
        """
        values = self._groups.row(number, self._columns)
        where = self._where(number, values["uid"])
        if empty := [name for name in REQUIRED if values[name] is None]:
            raise ValueError(f"{where}: {empty[0]} is empty")
        for name, most in NUMBERS.items():
            if (value := values.get(name)) is not None and not 1 <= value <= most:
                raise ValueError(f"{where}: {name} is {value}; it must be from 1 to {most}")
        for name in IMAGES:
            values[name] = self._image(values.get(name), f"{where}: {name}")
        sources = self._images(values.pop(SOURCES, None) or (), SOURCES, where)
        values |= source_fields(values["source_image"], sources, where)
        values[TARGET_FRAMES] = tuple(self._images(values.get(TARGET_FRAMES) or (), TARGET_FRAMES, where))
        try:
            values[SCORES] = _pairs(values.get(SCORES))
            return Row(**values)
        except ValueError as error:  # names the row
            raise ValueError(f"{where}: {error}") from error

    def _images(self, column: Sequence[str | bytes | None], name: str, where: str) -> list[bytes]:
        """The images of a list."""
        if len(column) > LISTS[name]:
            raise ValueError(f"{where} has {len(column)} {name.replace('_', ' ')}; at most {LISTS[name]} are read")
        images = [image for image in (self._image(value, f"{where}: {name}") for value in column) if image is not None]
        if len(images) < len(column):
            raise ValueError(f"{where}: an image of {name} is empty")
        return images

    def _image(self, value: str | bytes | None, where: str) -> bytes | None:
        """An encoded image, or what the file at a path holds."""
        return read_inside(self.path.parent, value, where) if isinstance(value, str) else value

    def size(self, number: int, default: Size) -> Size:
        """What a row asks for; a file without such columns is not read.

        Args:
            number: of the row.
            default: for what a row doesn't say.
        """
        if not any(name in self._columns for name in NUMBERS):
            return default
        values = self._groups.row(number, self._columns)
        return default.asked(*(values.get(name) for name in NUMBERS))

    @cached_property
    def scored(self) -> bool:
        """Whether a row may have scores of its own."""
        return SCORES in self._columns and self._groups.holds(SCORES)

    def scores(self, number: int) -> dict[str, float] | None:
        """A row's scores over routes, if it has some; a file without any is not read.

        Raises:
            ValueError: for scores that are none; names the file and the row.
        """
        return self._checked_scores(number, self._groups.row(number, self._columns)[SCORES]) if self.scored else None

    def every_rows_scores(self) -> Iterator[dict[str, float] | None]:
        """The scores of all rows in their order; no other column is read.

        Raises:
            ValueError: as `scores`.
        """
        for number, pairs in enumerate(self._groups.column(SCORES)):
            yield self._checked_scores(number, pairs)

    def _checked_scores(self, number: int, pairs: Pairs | None) -> dict[str, float] | None:
        try:
            if (scores := _pairs(pairs)) is not None:
                check_scores(scores)
        except ValueError as error:
            uid = self._groups.row(number, self._columns)["uid"]
            raise ValueError(f"{self._where(number, uid)}: {error}") from error
        return None if scores is None else dict(scores)

    def _where(self, number: int, uid: str) -> str:
        return f"{self.path} row {number} ({shown(uid)})"


def _pairs(pairs: Pairs | None) -> tuple[tuple[str, float], ...] | None:
    """A map's pairs, as a row holds them.

    Raises:
        ValueError: for a score that is empty.
    """
    if pairs is None:
        return None
    scores = tuple((route, score) for route, score in pairs if score is not None)
    if len(scores) < len(pairs):
        raise ValueError("a score is empty")
    return scores
