"""Writing a data set: Parquet with row groups small enough that a row at random is quick, whole or not at all."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fields.atomic import replacing
from fields.data.aspect import nearest_bucket
from fields.data.columns import COLUMNS, IMAGES, LISTS, NUMBERS, SCORES, SOURCES, TARGET_FRAMES
from fields.data.images import image_size
from fields.data.rows import Row

GROUP_ROWS = 10_000
GROUP_BYTES = 8 * 2**20

_TYPES: dict[str, pa.DataType] = {
    **dict.fromkeys(IMAGES, pa.binary()),
    **dict.fromkeys(NUMBERS, pa.int32()),
    **dict.fromkeys(LISTS, pa.list_(pa.binary())),
    SCORES: pa.map_(pa.string(), pa.float64()),
}
SCHEMA = pa.schema([(name, _TYPES.get(name, pa.string())) for name in COLUMNS])


class RowWriter:
    """A data set under a temporary name, which gets its own when the block ends without an error; a context manager.

    Args:
        path: Parquet file.
        area: in pixels; a row that has a size gets the bucket of this area that is nearest to it. None leaves sizes alone.
        inputs: files that the rows come from, none of which `path` may be.

    Raises:
        ValueError: if `path` is a folder or an input; at the end, if nothing was written.
    """

    def __init__(self, path: Path, area: int | None = None, inputs: Sequence[Path] = ()):
        if path.exists() and not path.is_file():
            raise ValueError(f"{path} is a folder or a device; a data set is written as a file")
        if path.exists() and any(source.exists() and path.samefile(source) for source in inputs):
            raise ValueError(f"{path} is read for this data set; write it as another file")
        self.path = path
        self.area = area
        self.rows = 0
        self._pending: list[dict[str, Any]] = []
        self._pending_bytes = 0

    def __enter__(self) -> "RowWriter":
        self._open = ExitStack()
        self._file = self._open.enter_context(pq.ParquetWriter(self._open.enter_context(replacing(self.path)), SCHEMA))
        return self

    def write(self, row: Row) -> None:
        """Append a row."""
        if self.area is not None and row.width is not None and row.height is not None:
            width, height = nearest_bucket(row.width, row.height, self.area)
            row = replace(row, width=width, height=height)
        self.rows += 1
        several = {"source_image": None, SOURCES: row.sources} if row.more_sources else {}
        self._pending.append(asdict(row) | several | {TARGET_FRAMES: row.target_frames or None})
        self._pending_bytes += sum(map(len, (*row.sources, *row.targets)))
        if len(self._pending) >= GROUP_ROWS or self._pending_bytes >= GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        self._file.write_table(pa.Table.from_pylist(self._pending, schema=SCHEMA))
        self._pending.clear()
        self._pending_bytes = 0

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, *__: object) -> None:
        with self._open:  # closes the file, then gives it its name; an error in this block deletes it
            if error is not None:
                raise error
            if not self.rows:
                raise ValueError(f"there are no rows for {self.path}")
            if self._pending:
                self._flush()


def with_size(row: Row) -> Row:
    """The row with the size of its target, or else of its source image, unless it has a size, and with its target's frames.

    Raises:
        ValueError: if an image cannot be read, or the frames of a clip differ in size; names the row.
    """
    targets, sources = ([image_size(image, row.uid) for image in images] for images in (row.targets, row.sources))
    if len(set(targets)) > 1:
        raise ValueError(
            f"row {row.uid!r}: its target_frames have several sizes: {', '.join(f'{w} x {h}' for w, h in sorted(set(targets)))}"
        )
    sizes = targets + sources
    if row.target_frames:
        row = replace(row, frames=len(row.target_frames))
    if not sizes or row.width is not None or row.height is not None:
        return row
    return replace(row, width=sizes[0][0], height=sizes[0][1])
