"""OmniEdit (arXiv 2411.07199) as routed buckets: its edit metadata decide which expert a row is for.

Read are the columns `omni_edit_id`, `task`, `edited_prompt_list`, `src_img`, `edited_img` and, for a least score, `o_score`, as
the published Parquet files have them. A row's prompt is the first of its list, so that a data set is the same every time.
"""

from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fields.data.rows import Row
from fields.shown import shown
from pipelines.data.shards import image_bytes, shard_paths, shard_rows
from pipelines.data.writer import RowWriter, with_size

LOCAL, GLOBAL = "local_edit", "global_edit"
ROUTES = {
    "addition": LOCAL,
    "attribute_modification": LOCAL,
    "removal": LOCAL,
    "swap": LOCAL,
    "background": GLOBAL,
    "env": GLOBAL,
    "style": GLOBAL,
}
COLUMNS = ("omni_edit_id", "task", "edited_prompt_list", "src_img", "edited_img")
SCORE = "o_score"


@dataclass(frozen=True, slots=True, kw_only=True)
class Buckets:
    """What was written: the files, and how many rows were below the least score."""

    paths: list[Path]
    dropped: int


def import_omniedit(
    source: Path, output: Path, overrides: Mapping[str, str], min_score: float | None = None, area: int | None = None
) -> Buckets:
    """Write one bucket a route: `edits.parquet` becomes `edits.local_edit.parquet` and `edits.global_edit.parquet`.

    Args:
        source: a Parquet file, or a folder of them.
        output: names the buckets.
        overrides: task -> route, beside or instead of the known ones.
        min_score: rows of a lower `o_score`, or of none, are left out.
        area: of the aspect buckets that rows are brought to, in pixels; None leaves their sizes.

    Raises:
        ValueError: names the file and the column, or the row and its value, and what is allowed; nothing is written then.
    """
    routes = ROUTES | dict(overrides)
    writers: dict[str, RowWriter] = {}
    counts: Counter[str] = Counter()
    with ExitStack() as stack:
        for where, values in shard_rows(source, COLUMNS if min_score is None else (*COLUMNS, SCORE)):
            route = _route(values["task"], routes, where)
            if min_score is not None and not _score(values, where) >= min_score:
                counts["dropped"] += 1
                continue
            if route not in writers:
                path = output.with_name(f"{output.stem}.{route}{output.suffix}")
                writers[route] = stack.enter_context(RowWriter(path, area, inputs=shard_paths(source)))
            writers[route].write(_row(values, where))
        if not writers:
            raise ValueError(f"{source} has no rows" + (f" of a score of at least {min_score:g}" if counts else ""))
    return Buckets(paths=[writer.path for writer in writers.values()], dropped=counts["dropped"])


def _route(task: Any, routes: Mapping[str, str], where: str) -> str:
    if task is not None and not isinstance(task, str):
        raise ValueError(f"{where}: task is {shown(task)}; it must be text")
    if task is None or task not in routes:
        known = ", ".join(f"{name} ({route})" for name, route in routes.items())
        name = shown(task)
        bare = name.strip("'")
        raise ValueError(f"{where}: unknown task {name}; known: {known}; add it with --map {bare}=ROUTE")
    return routes[task]


def _score(values: Mapping[str, Any], where: str) -> float:
    score = values[SCORE]
    if score is not None and not isinstance(score, int | float):
        raise ValueError(f"{where}: {SCORE} is {shown(score)}; it must be a number")
    return float("nan") if score is None else score  # NaN is below every score


def _row(values: Mapping[str, Any], where: str) -> Row:
    prompts = values["edited_prompt_list"]
    if not (isinstance(prompts, list) and prompts and isinstance(prompts[0], str)):
        raise ValueError(f"{where}: edited_prompt_list is {shown(prompts)}; it must be a list of prompts")
    uid = values["omni_edit_id"]
    if not isinstance(uid, str):
        raise ValueError(f"{where}: omni_edit_id is {shown(uid)}; it must be text")
    source, target = (image_bytes(values[name], f"{where}: {name}") for name in ("src_img", "edited_img"))
    try:
        return with_size(Row(uid, values["task"], prompts[0], source, target))
    except ValueError as error:  # names the row
        raise ValueError(f"{where}: {error}") from error
