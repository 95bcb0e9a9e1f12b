"""The scene world's data: one file per route, drawn from its grammar.

A row of two skills wants a local and a global edit in one instruction, and its scores say so.
"""

from dataclasses import replace
from pathlib import Path

from fields.method.plan import Stream, generator
from fields.scene.exam import task_row
from fields.scene.grammar import ALL_ROUTE_CATEGORIES, TWO_SKILLS, draw_task
from pipelines.config.run import RunConfig
from pipelines.data.writer import RowWriter

SCENE_DATA = Path("data/scene")
SCENE_ROWS = 4000
SCENE_SEED = 2  # the exam's questions and the experts' training tasks have other seeds


_TWO_SCORES = (("local_edit", 0.5), ("global_edit", 0.5))


def prepare_scene(output: Path = SCENE_DATA, rows: int = SCENE_ROWS) -> list[Path]:
    """One Parquet file per route, `rows` rows each, the same bytes every time; files that exist are left alone."""
    paths = []
    for number, (route, categories) in enumerate(ALL_ROUTE_CATEGORIES.items()):
        path = output / f"{route}.parquet"
        paths.append(path)
        if path.exists():
            continue
        with RowWriter(path) as writer:
            for n in range(rows):
                rng = generator(SCENE_SEED, Stream.ROW, number * 10_000_000 + n)
                row = task_row(f"{route}-{n:06d}", draw_task(categories[n % len(categories)], rng))
                writer.write(replace(row, scores=_TWO_SCORES) if route == TWO_SKILLS else row)
    return paths


def prepare_missing(config: RunConfig) -> None:
    """Write the scene world's data on a node's first use of them."""
    if any(route.data.parent == SCENE_DATA and not route.data.exists() for route in config.routes.values()):
        prepare_scene()
