"""Data files that a run cannot be made of: one line each, before anything is deployed."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest


def _edited(scene_data: Path, folder: Path, edit) -> Path:
    path = folder / "edited.parquet"
    pq.write_table(edit(pq.read_table(scene_data / "local_edit.parquet")), path)
    return path


def _with_first_source(table: pa.Table, value: bytes | None) -> pa.Table:
    column = table.column_names.index("source_image")
    values = [value, *table["source_image"].to_pylist()[1:]]
    return table.set_column(column, "source_image", pa.array(values, pa.binary()))


def _with_more_sources(table: pa.Table, first: int) -> pa.Table:
    """Every row from this one on has its source image twice."""
    images = table["source_image"].to_pylist()
    one = pa.array([image if n < first else None for n, image in enumerate(images)], pa.binary())
    two = pa.array([None if n < first else [image, image] for n, image in enumerate(images)], pa.list_(pa.binary()))
    columns = {"source_image": one, "source_images": two}
    for name, column in columns.items():
        table = table.set_column(table.column_names.index(name), name, column)
    return table


def _with_first_negative(table: pa.Table, value: str) -> pa.Table:
    values = [value, *[None] * (table.num_rows - 1)]
    return table.set_column(table.column_names.index("negative_prompt"), "negative_prompt", pa.array(values, pa.string()))


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (
            lambda table: table.drop_columns(["prompt"]),
            "lacks column 'prompt'; it has uid, task, negative_prompt, source_image",
        ),
        (lambda table: table.slice(0, 0), "has no rows"),
        (lambda table: _with_first_source(table, b"no image"), "row 'local_edit-000000': the image of 8 bytes does not decode"),
        (lambda table: _with_first_source(table, None), "a bucket has a source image in every row or in none"),
        (
            lambda table: _with_more_sources(table, 1),
            "row 1 ('local_edit-000001') has 2 source images, the first row 1; a bucket has as many in every row",
        ),
        (
            lambda table: _with_more_sources(table, 0),
            "row 0: row 'local_edit-000000' has 2 source images; family scene takes 1 at most",
        ),
        (lambda table: _with_first_negative(table, "red"), "a bucket has a negative prompt in every row or in none"),
    ],
)
def test_data(refuse, scene_data, tmp_path, edit, expected):
    line = refuse(f"routes.local_edit.data={_edited(scene_data, tmp_path, edit)}")
    assert line.startswith("error: routes.local_edit.data: ")
    assert expected in line


def _without(table: pa.Table, column: str) -> pa.Table:
    values = [*table[column].to_pylist()[:-1], None]
    return table.set_column(table.column_names.index(column), column, pa.array(values, pa.binary()))


def test_noised_data_without_a_target_image(refuse, scene_data, tmp_path):
    path = _edited(scene_data, tmp_path, lambda table: _without(table, "target_image"))
    line = refuse(f"routes.local_edit.data={path}", "preset=offpolicy")
    row = f"{path} row 47: row 'local_edit-000047'"
    assert line == f"error: routes.local_edit.data: {row} has no target_image, which state.type needs"


def test_data_that_is_no_parquet(refuse, tmp_path):
    (tmp_path / "text").write_text("uid,prompt\n")
    assert "cannot be read as Parquet" in refuse(f"routes.local_edit.data={tmp_path / 'text'}")
