"""The largest group, by what the rows ask for: the family's own size counts only where a row leaves it open."""

from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_pipelines

from fields.data.size import Size
from fields.memory.cost import Pass
from fields.registry import FAMILIES
from pipelines.parts.largest_pass import largest_pass

OWN = FAMILIES["sd3"].own_size


def write(path, sizes):
    columns = {"uid": [str(n) for n in range(len(sizes))], "task": "t", "prompt": "p"}
    rows = pa.table({name: values if isinstance(values, list) else [values] * len(sizes) for name, values in columns.items()})
    for place, name in enumerate(("width", "height")):
        rows = rows.append_column(name, pa.array([size[place] if size else None for size in sizes], pa.int64()))
    pq.write_table(rows, path)
    return path


@pytest.mark.parametrize(
    ("columns", "sources"),
    [
        ({}, 0),
        ({"source_image": [b"a"]}, 1),
        ({"source_images": [[b"a", b"b", b"c"]]}, 3),
        ({"source_image": [b"a"], "source_images": [None]}, 1),
        ({"source_image": pa.array([None], pa.binary())}, 0),
        ({"source_image": pa.array([None], pa.binary()), "source_images": [[b"a", b"b"]]}, 2),
    ],
)
def test_the_source_images_of_the_rows_are_counted(make_config, tmp_path, columns, sources):
    pq.write_table(pa.table({"uid": ["u"], "task": ["t"], "prompt": ["p"], **columns}), tmp_path / "rows.parquet")
    config = make_config(f"routes={{text_to_image: {{expert: text_to_image, data: {tmp_path / 'rows.parquet'}}}}}")
    assert largest_pass(config, FAMILIES["flux2"](), branches=1).sources == sources
    assert largest_pass(config, FAMILIES["sd3"](), branches=1).sources == 0


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(64, 64), (32, 96), (16, 16)], (64, 64)),
        ([(32, 96), (96, 32)], (96, 32)),
        ([(64, 64), None], OWN),
        ([(2 * OWN[0], OWN[1]), None], (2 * OWN[0], OWN[1])),
        (None, OWN),
    ],
)
def test_the_largest_image_is_one_that_a_row_asks_for(make_config, tmp_path, sizes, expected):
    data = tmp_path / "rows.parquet"
    if sizes is not None:
        write(data, sizes)
    routes = f"routes={{text_to_image: {{expert: text_to_image, data: {data}}}}}"
    config = make_config(routes, "rollout.group_size=4", "learner.batch_size=3")
    assert largest_pass(config, FAMILIES["sd3"](), branches=2) == Pass(3, Size(*expected), 0, 2)


def test_the_frames_of_a_clip_count_as_far_as_they_have_cells(make_config, tmp_path, tmp_path_factory):
    """Five frames have the cells of two: 2 x 64 x 48 is less than one image of 96 x 80, in spite of its 15,360 pixels."""
    folder = tmp_path_factory.mktemp("wan") / "model"
    tiny_pipelines.save(tiny_pipelines.PIPELINES["wan"](), folder)
    data = write(tmp_path / "rows.parquet", [(64, 64), (32, 96), None])
    routes = f"routes={{text_to_image: {{expert: text_to_image, data: {data}}}}}"
    config, family = make_config(routes), partial(FAMILIES["wan"], folder)
    assert largest_pass(config, family(), branches=1).size == Size(832, 480, 81)
    frames = pq.read_table(data).append_column("frames", pa.array([1, 5, 1], pa.int32()))
    pq.write_table(frames, data)
    clips = largest_pass(config, family(size=Size(32, 32, 81)), branches=1)
    assert (clips.size, clips.still) == (Size(32, 96, 5), Size(64, 64, 1))
    assert clips.seen_by(family(size=Size(32, 32, 81))).size == Size(32, 96, 5)
    assert clips.seen_by(FAMILIES["sd3"]()).size == Size(64, 64, 1), "whose pixels are more than a frame of the clip has"
    sized = write(tmp_path / "rows.parquet", [(64, 48), (96, 80)])
    pq.write_table(pq.read_table(sized).append_column("frames", pa.array([5, 1], pa.int32())), sized)
    images = largest_pass(config, family(), branches=1)
    assert (images.size, images.still) == (Size(96, 80, 1), None)
