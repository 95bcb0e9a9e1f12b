"""A Parquet file read row by row, one row group at a time: opening costs its footer, never its rows.

A row drawn at random costs the decoding of its whole row group. Groups of one to some eight megabytes are a good size:
about ten thousand rows of prompts, or a few dozen rows with images. `pipelines.prepare` writes such files.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from cachetools import LRUCache

from fields.shown import one_line

CACHE_BYTES = 64 * 2**20
MOST_DECODED = 2**30  # bytes of a row group; a file of five kilobytes can hold gigabytes, as one value may stand for many rows

_DAMAGE = (pa.ArrowException, OSError, ValueError)  # what pyarrow raises for files that are damaged, or made to look so


class RowGroups:
    """Random access to the rows of a Parquet file.

    Args:
        path: of the file.
        cache_bytes: how much of decoded row groups is kept, least recently used out first; the newest always is.

    Raises:
        ValueError: if the file is missing or is not Parquet; like every error here it is one line.
    """

    def __init__(self, path: Path, cache_bytes: int = CACHE_BYTES):
        if not path.is_file():
            raise ValueError(f"no such file: {path}")
        try:
            self._file = pq.ParquetFile(path)
            self.schema: pa.Schema = self._file.schema_arrow  # the columns and their types
        except _DAMAGE as error:
            raise ValueError(f"{path} cannot be read as Parquet: {one_line(error)}") from error
        self._path = path
        metadata = self._file.metadata
        sizes = [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]
        self._ends = list(accumulate(sizes))

        def size(table: pa.Table) -> int:  # a group that is larger than the whole cache fills it, and so is kept alone
            return min(table.nbytes, cache_bytes)

        self._cache: LRUCache[int, pa.Table] = LRUCache(cache_bytes, getsizeof=size)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def row(self, number: int, columns: Sequence[str]) -> dict[str, Any]:
        """A row as column -> value.

        Args:
            number: in [0, len).
            columns: which; the same at every call, as decoded groups are kept.

        Raises:
            IndexError: if there is no such row.
            ValueError: if its row group is damaged, or decodes to more than MOST_DECODED bytes.
        """
        if not 0 <= number < len(self):
            raise IndexError(f"{self._path} has {len(self)} rows; there is no row {number}")
        group = bisect_right(self._ends, number)
        start = self._ends[group - 1] if group else 0
        table = self._group(group, columns)
        try:
            return table.slice(number - start, 1).to_pylist()[0]
        except UnicodeDecodeError as error:  # pyarrow doesn't look into texts before
            raise ValueError(f"{self._path} row {number} has a text that is not UTF-8") from error

    def holds(self, column: str) -> bool:
        """Whether a row may have a value in a column: false only if the file's statistics say that none has."""
        metadata = self._file.metadata
        own = [n for n in range(metadata.num_columns) if metadata.schema.column(n).path.split(".")[0] == column]
        statistics = (metadata.row_group(n).column(place).statistics for n in range(metadata.num_row_groups) for place in own)
        return any(known is None or known.num_values > 0 for known in statistics)

    def column(self, name: str) -> Iterator[Any]:
        """The values of one column, of all rows in their order.

        Raises:
            ValueError: if the file is damaged.
        """
        try:
            for group in range(self._file.metadata.num_row_groups):
                for batch in self._batches(group, [name]):
                    yield from batch.column(0).to_pylist()
        except _DAMAGE as error:
            raise ValueError(f"{self._path}: column {name!r} is damaged: {one_line(error)}") from error

    def _group(self, group: int, columns: Sequence[str]) -> pa.Table:
        if group in self._cache:
            return self._cache[group]
        batches = list[pa.RecordBatch]()
        decoded = 0
        try:
            for batch in self._batches(group, columns):
                batches.append(batch)
                decoded += batch.nbytes
                if decoded > MOST_DECODED:
                    break
        except _DAMAGE as error:
            raise ValueError(f"{self._path}: row group {group} is damaged: {one_line(error)}") from error
        if decoded > MOST_DECODED:
            raise ValueError(f"{self._path}: row group {group} decodes to more than {MOST_DECODED >> 20} MiB")
        self._cache[group] = table = pa.Table.from_batches(batches)
        return table

    def _batches(self, group: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """A row group in batches of so many rows as surely stay below a quarter of the limit.

        No value is longer than all that its columns store, but a dictionary can give it to every row. Columns that decode to
        dictionaries become plain, because every batch would hold its own copy of the dictionary.
        """
        metadata = self._file.metadata.row_group(group)
        chunks = [metadata.column(n) for n in range(metadata.num_columns)]
        stored = sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.split(".")[0] in columns)
        rows = max(1, min(metadata.num_rows, MOST_DECODED // 4 // max(stored, 1)))
        for batch in self._file.iter_batches(rows, row_groups=[group], columns=list(columns), use_threads=False):
            plain = [a.dictionary_decode() if isinstance(a, pa.DictionaryArray) else a for a in batch.columns]
            yield pa.RecordBatch.from_arrays(plain, names=batch.schema.names)
