"""The largest group that a run's rows can make."""

from pathlib import Path

import pyarrow.parquet as pq

from fields.data.columns import NUMBERS, SOURCES
from fields.data.size import Size
from fields.families.base import Family
from fields.memory.cost import Pass
from pipelines.config.location import is_here
from pipelines.config.run import RunConfig


def largest_pass(config: RunConfig, family: Family, branches: int) -> Pass:
    """The most samples that a group can have, of the largest image or clip that a row asks for, with its source images.

    Files that aren't here are taken to hold images of the family's own size, with a source image where the family takes one.

    Args:
        config: of the run.
        family: of its base.
        branches: velocities of each sample whose graphs the learner keeps together.
    """
    files = [route.data for route in config.routes.values() if is_here(route.data)]
    absent = len(files) < len(config.routes)
    sources = max([int(absent), *map(sources_of, files)]) if family.source != "none" else 0
    samples = min(config.rollout.group_size, config.learner.batch_size)
    sizes = {size for path in files for size in _sizes(path, family.default_size)}
    if absent:
        sizes.add(family.default_size)
    largest = max(sizes, key=lambda size: (family.extent(size), size))
    if largest.frames == 1:
        return Pass(samples, largest, sources, branches)
    stills = [size for size in sizes if size.frames == 1] or [largest._replace(frames=1)]
    return Pass(samples, largest, sources, branches, still=max(stills, key=lambda size: (family.extent(size), size)))


def sources_of(path: Path) -> int:
    """Source images of a file's rows: every row has as many as its first."""
    columns = [name for name in ("source_image", SOURCES) if name in pq.read_schema(path).names]
    if not columns:
        return 0
    first = next((batch.to_pylist()[0] for batch in pq.ParquetFile(path).iter_batches(1, columns=columns) if len(batch)), {})
    return len(first.get(SOURCES) or ()) or int(first.get("source_image") is not None)


def _sizes(path: Path, default: Size) -> set[Size]:
    """What the rows of a file ask for."""
    names = pq.read_schema(path).names
    if not (there := [name for name in NUMBERS if name in names]):
        return {default}
    table = pq.read_table(path, columns=there)
    columns = [table[name].to_pylist() if name in there else [None] * len(table) for name in NUMBERS]
    return {default.asked(*said) for said in set(zip(*columns, strict=True))} or {default}
