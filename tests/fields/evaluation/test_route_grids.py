import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from fields.data.bucket import Bucket
from fields.evaluation.base import Evaluation, Sheet
from fields.evaluation.metrics import Metric
from fields.evaluation.route_grids import RouteGrids, frame_rows
from fields.method.plan import Stream, noise
from fields.scene.exam import Exam
from fields.scene.family import SceneFamily

FAMILY, SHAPE = SceneFamily(), (3, 24, 24)


class Mean(Metric):
    """Of all images' bytes."""

    def __call__(self, rows, images):
        return float(np.mean([image.mean() for image in images]))


@pytest.fixture(scope="module")
def buckets(tmp_path_factory):
    """Two routes, of five rows and of two."""
    folder = tmp_path_factory.mktemp("buckets")
    for route, count in (("local", 5), ("global", 2)):
        rows = [{"uid": f"{route}-{n}", "task": "add", "prompt": f"prompt {n}"} for n in range(count)]
        pq.write_table(pa.Table.from_pylist(rows), folder / route)
    return {route: Bucket(folder / route) for route in ("local", "global")}


def test_sheets_hold_the_first_rows_of_every_route(buckets):
    grids = RouteGrids(buckets, 4, 3, FAMILY, 3, {})
    assert [(sheet.route, [row.uid for row in sheet.rows]) for sheet in grids.sheets] == [
        ("local", ["local-0", "local-1", "local-2"]),
        ("local", ["local-3"]),
        ("global", ["global-0", "global-1"]),
    ]


def test_noise_is_the_plans_and_each_rows_own(buckets):
    sheets = RouteGrids(buckets, 4, 3, FAMILY, 3, {}).sheets
    states = torch.cat([sheet.noise for sheet in sheets])
    assert torch.equal(states, noise(3, [0, 1, 2, 3, 100_000, 100_001], SHAPE, Stream.QUESTION_NOISE))


def test_neither_more_rows_nor_other_batches_change_the_noise_of_a_row(buckets):
    few, many = (RouteGrids(buckets, n, 3, FAMILY, size, {}) for n, size in ((2, 1), (5, 16)))
    assert torch.equal(few.sheets[1].noise[0], many.sheets[0].noise[1])
    assert not torch.equal(RouteGrids(buckets, 2, 4, FAMILY, 1, {}).sheets[0].noise, few.sheets[0].noise)


class Tall(SceneFamily):
    """A state of two values a pixel, whatever the size."""

    def latent_shape(self, size=None):
        width, height = size.image if size else (1, 1)
        return 2, height, width


def test_a_sheet_has_one_size_and_each_row_the_noise_of_its_number(tmp_path):
    sizes = [(2, 3), (None, None), (2, 3), (4, 1), (2, 3)]
    rows = [{"uid": f"{n}", "task": "t", "prompt": "p", "width": w, "height": h} for n, (w, h) in enumerate(sizes)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows")
    sheets = RouteGrids({"local": Bucket(tmp_path / "rows")}, 5, 3, Tall(), 2, {}).sheets
    assert [[row.uid for row in sheet.rows] for sheet in sheets] == [["0", "2"], ["4"], ["1"], ["3"]]
    assert [tuple(sheet.noise.shape[1:]) for sheet in sheets] == [(2, 3, 2), (2, 3, 2), (2, 24, 24), (2, 1, 4)]
    assert torch.equal(sheets[0].noise, noise(3, [0, 2], (2, 3, 2), Stream.QUESTION_NOISE))


def test_images_are_passed_on_without_marks(buckets):
    grids, answers = RouteGrids(buckets, 4, 3, FAMILY, 3, {}), [np.full((n, *SHAPE), n / 4) for n in (3, 1, 2)]
    result = grids.result([grids.kept(images) for images in answers])
    for own, images in zip(result.answers, answers, strict=True):
        np.testing.assert_array_equal(own, images)
    assert result.skills == {}


def test_of_a_large_clip_thumbnails_of_sixteen_frames_are_kept_and_its_pixels_for_metrics_alone(buckets):
    colours = np.arange(81) * 3
    clip = np.broadcast_to((colours / 255).astype(np.float32)[None, :, None, None], (3, 81, 40, 512))
    plain, measured = (RouteGrids(buckets, 1, 0, FAMILY, 1, m).kept(clip[None]) for m in ({}, {"mean": Mean()}))
    (shown,) = plain.shown
    assert shown.shape == (3, 16, 20, 256)
    np.testing.assert_allclose(shown[0, :, 0, 0], np.linspace(0, 80, 16).round() * 3 / 255, atol=1e-6)
    assert plain.pixels == ()
    (pixels,) = measured.pixels
    assert (pixels.shape, pixels.dtype) == ((81, 40, 512, 3), np.uint8)
    np.testing.assert_array_equal(pixels[:, 7, 9, 2], colours)


def test_a_metric_sees_every_row_of_a_route_with_its_image(buckets):
    class Seen(Metric):
        def __call__(self, rows, images):
            return float(sum(image.mean() * int(row.uid[-1]) for row, image in zip(rows, images, strict=True)))

    grids = RouteGrids(buckets, 4, 3, FAMILY, 3, {"seen": Seen()})
    colours = [np.full((3, *SHAPE), 2 / 255), np.full((1, *SHAPE), 5 / 255), np.full((2, *SHAPE), 7 / 255)]
    result = grids.result([grids.kept(images) for images in colours])
    assert result.skills == {"local": {"seen": 2.0 * (0 + 1 + 2) + 5.0 * 3}, "global": {"seen": 7.0 * 1}}


class Clips(SceneFamily):
    """Clips of any number of frames."""

    def latent_shape(self, size=None):
        return SHAPE if size is None or size.frames == 1 else (3, size.frames, 24, 24)


def test_a_metric_of_images_sees_a_clip_s_frames_each_beside_that_of_the_target(tmp_path):
    targets = [bytes([n]) for n in range(5)]
    rows = [{"uid": "0", "task": "t", "prompt": "p", "frames": 5, "target_frames": targets}]
    rows.append(rows[0] | {"uid": "1", "frames": 1, "target_frames": targets[:1]})
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows")
    checked = []

    class Seen(Metric):
        def check(self, rows):
            checked.extend(row.target_image for row in rows)

        def __call__(self, rows, images):
            return float(sum(row.target_image[0] * image.mean() for row, image in zip(rows, images, strict=True)))

    grids = RouteGrids({"local": Bucket(tmp_path / "rows")}, 2, 3, Clips(), 2, {"seen": Seen()})
    assert [tuple(sheet.noise.shape) for sheet in grids.sheets] == [(1, 3, 5, 24, 24), (1, *SHAPE)]
    assert checked == [*targets, targets[0]]
    clip = np.ones((3, 5, 24, 24)) * np.arange(1, 6)[None, :, None, None] / 255
    result = grids.result([grids.kept(clip[None]), grids.kept(np.full((1, *SHAPE), 9 / 255))])
    assert result.skills == {"local": {"seen": pytest.approx(sum(n * (n + 1) for n in range(5)))}}
    assert result.picture.shape == (3, 2 * 26, 5 * 24 + 2), "a strip of five frames, and one image below it"


def test_a_metric_that_reads_no_target_takes_a_clip_whose_row_has_one_image(tmp_path):
    row = {"uid": "0", "task": "t", "prompt": "p", "frames": 5, "target_image": b"image"}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "rows")
    grids = RouteGrids({"local": Bucket(tmp_path / "rows")}, 1, 3, Clips(), 2, {"mean": Mean()})
    assert grids.result([grids.kept(np.ones((1, 3, 5, 24, 24)))]).skills == {"local": {"mean": 255.0}}
    assert [row.target_image for row in frame_rows(grids.sheets[0].rows[0], 5)] == [None] * 5


def test_exam_and_grids_are_evaluations(buckets):
    for evaluation in (Exam(1, seed=0), RouteGrids(buckets, 1, 0, FAMILY, 1, {})):
        assert isinstance(evaluation, Evaluation)
        assert all(isinstance(sheet, Sheet) for sheet in evaluation.sheets)
