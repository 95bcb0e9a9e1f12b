"""Write the data sets that runs read: `python -m pipelines.prepare scene [--output data/scene] [--rows 4000]`."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from fields.plan import Stream, generator
from fields.scene.exam import task_row
from fields.scene.grammar import ROUTE_CATEGORIES, draw_task
from pipelines.config import RunConfig

SCENE_DATA = Path("data/scene")
SCENE_ROWS = 4000
SCENE_SEED = 2  # the exam's questions and the experts' training tasks have other seeds
_SCHEMA = pa.schema(
    [
        ("uid", pa.string()),
        ("task", pa.string()),
        ("prompt", pa.string()),
        ("source_image", pa.binary()),
        ("target_image", pa.binary()),
    ]
)


def prepare_scene(output: Path = SCENE_DATA, rows: int = SCENE_ROWS) -> list[Path]:
    """One Parquet file a route, `rows` rows each, the same bytes every time; files that exist are left alone."""
    output.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, (route, categories) in enumerate(ROUTE_CATEGORIES.items()):
        path = output / f"{route}.parquet"
        paths.append(path)
        if path.exists():
            continue
        table = []
        for n in range(rows):
            task = draw_task(categories[n % len(categories)], generator(SCENE_SEED, Stream.ROW, number * 10_000_000 + n))
            table.append(asdict(task_row(f"{route}-{n:06d}", task)))
        temporary = path.with_suffix(".temporary")
        pq.write_table(pa.Table.from_pylist(table, schema=_SCHEMA), temporary)
        temporary.rename(path)
    return paths


def prepare_missing(config: RunConfig) -> None:
    """Write the scene world's data on a node's first use of them."""
    if any(route.data.parent == SCENE_DATA and not route.data.exists() for route in config.routes.values()):
        prepare_scene()


def main(arguments: Sequence[str]) -> None:
    """Parse, write, say where."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.prepare", description=__doc__)
    commands = parser.add_subparsers(dest="what", required=True)
    scene = commands.add_parser("scene", help="prompts and source images of the scene world, one file a route")
    scene.add_argument("--output", type=Path, default=SCENE_DATA)
    scene.add_argument("--rows", type=int, default=SCENE_ROWS, help="rows of each file")
    options = parser.parse_args(arguments)
    for path in prepare_scene(options.output, options.rows):
        print(f"{path}: {pq.read_metadata(path).num_rows} rows, {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(sys.argv[1:])
