"""Evaluation by image grids, as families without an exam have it, run on the scene family."""

import io
import json
import re
from base64 import b64decode

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from actors.journal import SKILLS, rows
from fields.data.bucket import Bucket
from fields.data.images import encode_png, to_bytes
from fields.evaluation.fid import Fid
from fields.evaluation.metrics import ClipScore
from fields.method.plan import Stream, noise
from fields.method.rollout import clean
from fields.method.solver import Euler
from fields.registry import FAMILIES
from pipelines.config.errors import ConfigError
from pipelines.config.run import AFTER, BASE, BEFORE
from pipelines.parts.check_files import checked_parts
from pipelines.parts.run_parts import RunParts
from pipelines.reports.grids import animation_uri
from pipelines.reports.run_report import write_report
from pipelines.run_folder.outcome import write_summary
from runs import distributed, reference

GRIDS = ("eval={type: grids, every: 2, samples: 5, seed: 7}", "run.steps=4")
ROUTES = ("text_to_image", "local_edit", "global_edit")


def test_a_run_without_an_exam_shows_what_everyone_makes_of_the_same_rows(make_config):
    config = make_config(*GRIDS, "run.name=grids")  # groups of four: two sheets a route
    outcome = reference(config)
    assert outcome.results.keys() == {BASE, BEFORE, AFTER, *ROUTES}
    assert [len(images) for images in outcome.results[AFTER].answers] == [4, 1] * 3
    _check_base(config, outcome)
    summary = write_summary(config, outcome)
    assert summary["skills"] == {}
    write_report(config, outcome, summary)
    _check_report(config)
    _check_board(config)


def _check_base(config, outcome):
    """The base's images of the first route against a rollout by hand."""
    field = RunParts(config).field("text_to_image")  # the expert of that route is the base itself
    rows = [Bucket(config.routes["text_to_image"].data)[n] for n in range(4)]
    x_T = noise(7, range(4), (3, 24, 24), Stream.QUESTION_NOISE)
    expected = clean(field.velocity, x_T, RunParts(config).grid(None), field.family.encode(rows), Euler())
    np.testing.assert_allclose(outcome.results[BASE].answers[0], field.family.decode(expected), atol=1e-5)


def _check_report(config):
    page = (config.folder / "report.html").read_text()
    sources = 2 * 5  # of the two edit routes
    assert page.count("<img ") == 3 * 5 * len((BASE, *ROUTES, BEFORE, AFTER)) + sources
    assert page.count("<table") == page.count("<caption>") == 3 + 1
    assert page.count("There is no exam for this family of models") == 1
    assert "graded" not in page.split("Run facts")[0]
    assert all(re.search(r'alt="[^"]+"', image) for image in re.findall(r"<img [^>]*>", page))


def _check_board(config):
    board = EventAccumulator(str(config.folder / "tensorboard"), size_guidance={"images": 0})
    board.Reload()
    assert [event.step for event in board.Images("student")] == [2, 4]
    assert [(row["step"], row["skills"]) for row in rows(config.folder / SKILLS)] == [(2, {}), (4, {})]


class MeanColour(torch.nn.Module):
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.double().mean(dim=(2, 3))


@pytest.fixture
def extractor(tmp_path):
    torch.jit.script(MeanColour()).save(tmp_path / "extractor.pt")
    return tmp_path / "extractor.pt"


def test_metrics_are_in_summary_report_and_board(make_config, tiny_clip, extractor, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for n in range(3):
        (photos / f"{n}.png").write_bytes(encode_png(np.full((3, 4, 4), n / 2, np.float32)))
    fid = f"far: {{type: fid, weights: {extractor}, real: {photos}}}"
    metrics = f"eval.metrics={{clip: {{type: clip_score, weights: {tiny_clip}}}, {fid}}}"
    config = make_config(*GRIDS, metrics, "run.name=metrics", "run.steps=2")
    outcome = reference(config)
    summary = write_summary(config, outcome)
    bucket = Bucket(config.routes["local_edit"].data)
    images = [to_bytes(image) for sheet in outcome.results[AFTER].answers[2:4] for image in sheet]
    questions = [bucket[n] for n in range(5)]
    expected, distance = ClipScore(tiny_clip)(questions, images), Fid(extractor, photos)(questions, images)
    assert summary["skills"].keys() == set(ROUTES)
    assert summary["skills"]["local_edit"][AFTER] == {"clip": pytest.approx(expected), "far": pytest.approx(distance)}
    write_report(config, outcome, summary)
    page = (config.folder / "report.html").read_text()
    assert f"<td>{expected:.4g}</td>" in page
    assert f"<td>{distance:.4g}</td>" in page
    assert page.count("of all evaluated rows") == 2 * 3
    board = EventAccumulator(str(config.folder / "tensorboard"))
    board.Reload()
    assert board.Scalars("clip/local_edit")[-1].value == pytest.approx(expected, rel=1e-5)


def test_metrics_that_cannot_be_taken_are_refused(make_config, extractor, tmp_path):
    metric = f"eval.metrics={{clip: {{type: clip_score, weights: {tmp_path}}}}}"
    with pytest.raises(ConfigError, match=r"eval\.metrics: .* is no CLIP model: it has no config\.json"):
        checked_parts(make_config(*GRIDS, metric))
    with pytest.raises(
        ConfigError, match=r"eval\.metrics: the exam has its own marks; metrics are taken with eval.type: grids"
    ):
        make_config(metric)
    with pytest.raises(ConfigError, match=r"eval\.metrics\.x: Input tag 'lpips' .* 'clip_score', 'fid'"):
        make_config(*GRIDS, "eval.metrics={x: {type: lpips, weights: w}}")
    fid = f"eval.metrics={{far: {{type: fid, weights: {tmp_path / 'no'}}}}}"
    with pytest.raises(ConfigError, match=r"eval\.metrics: no such file: .*/no"):
        checked_parts(make_config(*GRIDS, fid))
    fid = f"eval.metrics={{far: {{type: fid, weights: {extractor}}}}}"
    with pytest.raises(
        ConfigError, match=r"eval\.metrics: far, of the route text_to_image: fid needs at least 2 images; .* give 1"
    ):
        checked_parts(make_config(*GRIDS, fid, "eval.samples=1"))


@pytest.mark.slow
def test_a_distributed_run_makes_the_images_of_the_reference(on_standing, make_config):
    expected = reference(make_config(*GRIDS, "run.name=plain"))
    actual = distributed(on_standing(*GRIDS, "run.name=cluster", "rollout.workers=1"))
    assert actual.weights.checksum == expected.weights.checksum
    for model, result in expected.results.items():
        for a, b in zip(actual.results[model].answers, result.answers, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


def test_an_animation_of_some_frames_takes_as_long_as_the_clip():
    uri = animation_uri(np.broadcast_to(np.linspace(0, 1, 16)[:, None, None], (3, 16, 4, 4)), frames=81)
    shown = Image.open(io.BytesIO(b64decode(uri.removeprefix("data:image/gif;base64,"))))
    assert shown.info["duration"] == 300, "81 frames of 60 ms, as 16"


def test_the_scene_family_is_examined_unless_told_otherwise(make_config):
    assert type(RunParts(make_config()).evaluation).__name__ == "Exam"
    assert type(RunParts(make_config("eval.type=grids")).evaluation).__name__ == "RouteGrids"


def test_only_the_scene_family_has_an_exam(make_config, monkeypatch):
    monkeypatch.setitem(FAMILIES._places, "other", FAMILIES._places["scene"])
    assert type(RunParts(make_config("model.family=other")).evaluation).__name__ == "RouteGrids"
    with pytest.raises(ConfigError, match=r"eval\.type: 'exam' is for the family scene; allowed for other: grids"):
        make_config("model.family=other", "eval.type=exam")


def test_an_unknown_evaluation_is_refused(make_config):
    with pytest.raises(ConfigError, match=r"eval\.type: Input should be 'exam' or 'grids' \(got 'marks'\)"):
        make_config("eval.type=marks")
    assert "exam" in json.dumps(make_config("eval.type=exam").model_dump(mode="json"))
