"""A Parquet file read row by row, one row group at a time: opening costs its footer, never its rows.

A row drawn at random costs the decoding of its whole row group. Groups of one to some eight megabytes are a good size:
about ten thousand rows of prompts, or a few dozen rows with images. `pipelines.prepare` writes such files.
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from cachetools import LRUCache

CACHE_BYTES = 64 * 2**20


class RowGroups:
    """Random access to the rows of a Parquet file.

    Args:
        path: of the file.
        cache_bytes: how much of decoded row groups is kept, least recently used out first; the newest always is.

    Raises:
        ValueError: if the file is missing or is not Parquet.
    """

    def __init__(self, path: Path, cache_bytes: int = CACHE_BYTES):
        if not path.is_file():
            raise ValueError(f"no such file: {path}")
        try:
            self._file = pq.ParquetFile(path)
        except (OSError, ValueError) as error:  # pyarrow's errors are subclasses of these
            raise ValueError(f"{path} cannot be read as Parquet: {error}") from error
        self._path = path
        metadata = self._file.metadata
        sizes = [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]
        self._ends = list(accumulate(sizes))

        def size(table: pa.Table) -> int:  # a group that is larger than the whole cache fills it, and so is kept alone
            return min(table.nbytes, cache_bytes)

        self._cache: LRUCache[int, pa.Table] = LRUCache(cache_bytes, getsizeof=size)

    @property
    def schema(self) -> pa.Schema:
        """The file's columns and their types."""
        return self._file.schema_arrow

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def row(self, number: int, columns: Sequence[str]) -> dict[str, Any]:
        """A row as column -> value.

        Args:
            number: in [0, len).
            columns: which; the same at every call, as decoded groups are kept.

        Raises:
            IndexError: if there is no such row.
            ValueError: if its row group is damaged.
        """
        if not 0 <= number < len(self):
            raise IndexError(f"{self._path} has {len(self)} rows; there is no row {number}")
        group = bisect_right(self._ends, number)
        start = self._ends[group - 1] if group else 0
        return self._group(group, columns).slice(number - start, 1).to_pylist()[0]

    def _group(self, group: int, columns: Sequence[str]) -> pa.Table:
        if group in self._cache:
            return self._cache[group]
        try:
            table = self._file.read_row_group(group, columns=list(columns), use_threads=False)
        except (OSError, ValueError) as error:
            raise ValueError(f"{self._path}: row group {group} is damaged: {error}") from error
        self._cache[group] = table
        return table
