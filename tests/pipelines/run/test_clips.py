"""Students of clips, distilled through services, shown and generated; image models that teach one-frame rows."""

import io
import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_pipelines
from PIL import Image
from random_lora import write_random_lora
from tiny_pipelines import PIPELINES

from fields.data.images import encode_png
from pipelines.config.errors import ConfigError
from pipelines.config.run import AFTER, RunConfig
from pipelines.generate import main as generate
from pipelines.parts.check_files import checked_parts
from pipelines.parts.needs import Needs
from pipelines.parts.run_parts import RunParts
from pipelines.reports.run_report import write_report
from pipelines.run_folder.outcome import write_summary
from runs import distributed, reference

SIDE = 32
PROMPTS = ("a red cat", "make the dog bright", "a green circle under the blue square", "it")
GUIDED = {"type": "guidance", "scale": 2.0}
Folder = Callable[[str], Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """The folder of a pipeline, by name."""

    @cache
    def saved(name: str) -> Path:
        path = tmp_path_factory.mktemp(name) / "model"
        tiny_pipelines.save(PIPELINES[name](), path)
        return path

    return saved


def rows(path: Path, frames: tuple[int | None, ...], targets: bool = False) -> Path:
    """Eight, with these numbers of frames in turn."""
    content: list[dict[str, Any]] = []
    for n in range(8):
        count = frames[n % len(frames)]
        content.append({"uid": f"r{n}", "task": "task", "prompt": PROMPTS[n % 4], "frames": count})
        if targets:
            made = np.random.default_rng(n).random((count, 3, SIDE, SIDE), dtype=np.float32)
            content[-1]["target_frames"] = [encode_png(frame) for frame in made]
    pq.write_table(pa.Table.from_pylist(content), path)
    return path


MakeRun = Callable[..., RunConfig]


@pytest.fixture
def make_run(folder: Folder, tmp_path: Path) -> MakeRun:
    """Three steps of a Wan student of two routes: the base under guidance, and an adapter, of Wan or of another family."""

    def make(name: str, frames: tuple[int | None, ...] = (5, 1), teacher: str = "wan", targets: bool = False, **sections: Any):
        lora = tmp_path / f"lora-{teacher}"
        if not lora.is_dir():
            write_random_lora(teacher, folder(teacher), lora)
        service = {"num_cpus": 0.1}
        adapted = {"adapter": lora, "operator": GUIDED, **service}
        if teacher != "wan":
            adapted["model"] = {"family": teacher, "path": folder(teacher)}
        content = {
            "run": {"name": name, "dir": tmp_path / "runs", "steps": 3},
            "model": {"family": "wan", "path": folder("wan"), "width": SIDE, "height": SIDE},
            "experts": {"base_expert": {"operator": GUIDED, **service}, "adapted": adapted},
            "routes": {
                route: {"expert": expert, "data": rows(tmp_path / f"{route}.parquet", frames, targets)}
                for route, expert in (("plain", "base_expert"), ("special", "adapted"))
            },
            "encoder": service,
            "student": {"rank": 4, "alpha": 4},
            "rollout": {"workers": 1, "steps": 4, "group_size": 3, "num_cpus": 0.1},
            "learner": {"batch_size": 6, "learning_rate": 0.01, "lag": 1, "num_cpus": 0.1},
            "eval": {"every": 0},
        }
        return RunConfig.model_validate(content | sections)

    return make


@pytest.mark.slow  # the plain loop is below, and a family through services in test_families.py
def test_clips_and_images_through_services_are_the_reference(cluster, make_run: MakeRun):
    expected = reference(make_run("reference"))
    plan = RunParts(make_run("planned"), {"plain": 8, "special": 8}).plan
    assert {group.size.frames for step in range(3) for group in plan.groups(step)} == {1, 5}
    assert distributed(make_run("cluster")).weights.checksum == expected.weights.checksum


@pytest.mark.slow  # test_own_models.py has teachers of other families through services
def test_an_image_model_of_the_same_latent_space_teaches_one_frame_rows(cluster, make_run: MakeRun):
    expected = reference(make_run("reference", frames=(1,), teacher="qwen_image"))
    assert distributed(make_run("cluster", frames=(1,), teacher="qwen_image")).weights.checksum == expected.weights.checksum
    assert expected.weights.checksum != reference(make_run("alone", frames=(1,))).weights.checksum


def test_what_a_run_needs_is_known_where_an_image_model_teaches_one_frame_rows_beside_clips(make_run: MakeRun, tmp_path: Path):
    """Its passes are of one frame, however long the clips of the other route are."""
    config = make_run("both", frames=(1,), teacher="qwen_image")
    clips = rows(tmp_path / "clips.parquet", (5,))
    plain = config.routes["plain"].model_copy(update={"data": clips})
    both = config.model_copy(update={"routes": {**config.routes, "plain": plain}})
    assert checked_parts(both).largest_pass.size.frames == 5
    alone, beside = Needs.of(config), Needs.of(both)
    assert beside.expert_flops["adapted"] == alone.expert_flops["adapted"]
    assert beside.learner_flops > alone.learner_flops


def test_ranks_that_would_share_a_full_student_of_two_types_are_refused(make_run: MakeRun):
    """Wan's modulation is float32 in a bfloat16 network, as diffusers loads it."""
    config = make_run("shared", student={"type": "full"}, learner={"ranks": 2, "shard": True, "batch_size": 8})
    checked_parts(config)
    rounded = config.model_copy(update={"model": config.model.model_copy(update={"dtype": "bfloat16"})})
    both = r"patch_embedding\.weight in bfloat16 and scale_shift_table in float32"
    with pytest.raises(ConfigError, match=rf"learner\.shard: .* has {both}; it can be shared in float32"):
        checked_parts(rounded)


def test_a_student_is_taught_by_target_clips(make_run: MakeRun):
    taught = reference(make_run("targets", targets=True, preset="joint_sft"))
    assert taught.steps == 3
    assert any(tensor.count_nonzero() for name, tensor in taught.weights.tensors.items() if "lora_B" in name)


def test_the_report_shows_a_clip_as_a_strip_and_as_an_animation(make_run: MakeRun):
    config = make_run("shown", frames=(5,), eval={"every": 3, "samples": 2})
    outcome = reference(config)
    assert [np.shape(images) for images in outcome.results[AFTER].answers] == [(2, 3, 5, SIDE, SIDE)] * 2
    write_report(config, outcome, write_summary(config, outcome))
    page = (config.folder / "report.html").read_text()
    shown = 2 * 2 * len(outcome.results)
    assert len(re.findall(r'<img src="data:image/gif;base64,[^"]+" alt="clip of', page)) == shown
    assert len(re.findall(r'<img class="sheet" src="data:image/png;base64,[^"]+" alt="frames of the clip', page)) == shown


def test_clips_are_generated_as_animated_images(make_run: MakeRun, folder: Folder, tmp_path: Path):
    prompts = tmp_path / "prompts.jsonl"
    sizes = {"task": "t", "prompt": "a red cat", "width": SIDE, "height": SIDE}
    prompts.write_text("".join(json.dumps({"uid": f"{n}", "frames": n, **sizes}) + "\n" for n in (5, 1)))
    arguments = ["--model", folder("wan"), "--family", "wan", "--prompts", prompts, "--steps", 2, "--out", tmp_path / "out"]
    assert generate([str(argument) for argument in arguments]) == 0
    manifest = [json.loads(line)["file"] for line in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()]
    assert manifest == ["00000-0.gif", "00001-0.png"]
    clip, image = (Image.open(io.BytesIO((tmp_path / "out" / name).read_bytes())) for name in manifest)
    assert (clip.size, getattr(clip, "n_frames", 1)) == ((SIDE, SIDE), 5)
    assert (image.size, image.format) == ((SIDE, SIDE), "PNG")


@pytest.mark.parametrize(
    ("frames", "teacher", "message"),
    [
        ((5, 6), "wan", r"routes\.plain\.data: .* row 1: row 'r1' asks for 6 frames; family wan makes 4 k \+ 1"),
        (
            (5, 1),
            "qwen_image",
            r"routes\.special\.data, which experts\.adapted reads: .* row 0: row 'r0' asks for a clip of 5 frames; family "
            "qwen_image makes single images",
        ),
        (
            (1, None),
            "qwen_image",
            r"which experts\.adapted reads: .* row 1: row 'r1' asks for a clip of 81 frames; family qwen_image makes",
        ),
    ],
)
def test_clips_that_a_model_does_not_make_are_refused_before_anything_is_deployed(make_run: MakeRun, frames, teacher, message):
    with pytest.raises(ConfigError, match=message):
        checked_parts(make_run("bad", frames=frames, teacher=teacher))


def test_a_clip_in_an_image_bucket_is_refused(make_config, tmp_path: Path):
    data = rows(tmp_path / "clips.parquet", (5,))
    with pytest.raises(
        ConfigError, match=r"routes\.text_to_image\.data: .* asks for a clip of 5 frames; family scene makes single"
    ):
        checked_parts(make_config(f"routes={{text_to_image: {{expert: text_to_image, data: {data}}}}}"))
