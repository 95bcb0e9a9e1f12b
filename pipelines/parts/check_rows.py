"""Whether the rows of a route's file are what the model family and the experts' operators need."""

from functools import cache
from pathlib import Path

from fields.data.bucket import Bucket
from fields.data.columns import TARGET
from fields.data.images import decode_image
from fields.data.rows import Row, target_of
from fields.families.base import Family
from pipelines.config.model import ModelConfig
from pipelines.parts.device import device

_MOST_CHECKED = 20_000  # rows, and frames of targets that are decoded
_IN_ALL_OR_NONE = (("source_image", "source image"), ("negative_prompt", "negative prompt"))

Wanted = tuple[tuple[str, str], ...]  # columns that every row must have, each with the configuration's key that wants it


def checked_rows(path: Path, model: ModelConfig, wanted: Wanted) -> int:
    """The number of a file's rows. Every row of a small file is checked, and evenly spread ones of a large file, as far as
    the family can tell without a network. A process checks a file once.

    Raises:
        ValueError: names the file, the row and what is wrong with it.
    """
    return _checked_rows(path, model.model_dump_json(), wanted)


@cache
def _checked_rows(path: Path, model: str, wanted: Wanted) -> int:
    bucket, family = Bucket(path), ModelConfig.model_validate_json(model).build(device(0))
    first = bucket[0]
    checked = range(0, len(bucket), -(-len(bucket) // _MOST_CHECKED))
    decoded = set(checked[:: -(-len(checked) * max(1, len(first.target_frames)) // _MOST_CHECKED)])
    for n in checked:
        row = bucket[n]
        for column, what in _IN_ALL_OR_NONE:
            if (getattr(row, column) is None) != (getattr(first, column) is None):
                raise ValueError(f"{bucket.path} row {n} ({row.uid!r}): a bucket has a {what} in every row or in none")
        if len(row.sources) != len(first.sources):
            has = f"{bucket.path} row {n} ({row.uid!r}) has {len(row.sources)} source images"
            raise ValueError(f"{has}, the first row {len(first.sources)}; a bucket has as many in every row")
        try:
            _check_row(row, family, wanted, n in decoded)
        except ValueError as error:  # names the row by its uid
            raise ValueError(f"{bucket.path} row {n}: {error}") from error
    return len(bucket)


def _check_row(row: Row, family: Family, wanted: Wanted, decodes: bool) -> None:
    for column, key in wanted:
        if getattr(row, column) is None and not (column == TARGET and row.target_frames):
            raise ValueError(f"row {row.uid!r} has no {column}, which {key} needs")
    with_target = TARGET in dict(wanted)
    family.check_row(row, with_target and decodes)
    if with_target:
        target_of(row, family.size(row).frames)
    elif decodes:
        for target in row.targets:
            decode_image(target, row.uid)
