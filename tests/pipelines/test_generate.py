"""Images by the shipped scene models, judged by the exact checker, and read as the public scorers read their folders."""

import json
import re
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from fields.carriers import Variant
from fields.data.images import decode_image, encode_png
from fields.data.rows import Row
from fields.method.plan import Stream, noise
from fields.method.rollout import rollout
from fields.method.solver import Euler
from fields.method.time_grid import time_grid
from fields.scene.checker import check
from fields.scene.family import SceneFamily
from fields.scene.grammar import draw_task
from fields.scene.world import render
from pipelines.generate import main
from runs import reference

WEIGHTS = Path("fields/scene/weights")
COLOUR_TASKS = [draw_task("colour", np.random.default_rng(n)) for n in range(3)]
REMOVE_TASKS = [draw_task("remove", np.random.default_rng(n)) for n in range(3)]


def generate(prompts: Path, out: Path, *more: object, base: Path = WEIGHTS / "base") -> list[dict]:
    """Run the command, which must succeed; the rows of its manifest."""
    arguments = ["--model", base, "--family", "scene", "--prompts", prompts, "--out", out, "--steps", 16, *more]
    assert main([str(argument) for argument in arguments]) == 0
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


def image(path: Path) -> np.ndarray:
    return decode_image(path.read_bytes(), path.name)


@pytest.fixture
def prompts(tmp_path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("".join(task.prompt + "\n" for task in COLOUR_TASKS))
    return path


def test_images_are_the_models_own_and_right(prompts, tmp_path):
    """Against the rollout made by hand, and judged by the checker."""
    manifest = generate(prompts, tmp_path / "out", "--seed", 5, "--images", 2)
    family = SceneFamily()
    transformer = family.load_transformer(WEIGHTS / "base")
    grid = time_grid(16)
    for n, task in enumerate(COLOUR_TASKS):
        rows = manifest[2 * n : 2 * n + 2]
        assert [row["file"] for row in rows] == [f"{n:05d}-0.png", f"{n:05d}-1.png"]
        assert [row["prompt"] for row in rows] == [task.prompt] * 2
        x_T = noise(5, [row["number"] for row in rows], (3, 24, 24), Stream.QUESTION_NOISE)
        condition = family.encode([Row("u", "t", task.prompt)] * 2)
        x_0 = rollout(partial(family.velocity, transformer), x_T, grid, torch.tensor([[16], [16]]), condition, Euler())[0]
        for row, expected in zip(rows, family.decode(x_0), strict=True):
            made = image(tmp_path / "out" / row["file"])
            assert np.abs(made - np.clip(expected, 0, 1)).max() < 0.6 / 255
            assert check(task, made).passed


def test_more_images_leave_the_earlier_ones_and_another_seed_none(prompts, tmp_path):
    one = generate(prompts, tmp_path / "one", "--limit", 1)
    two = generate(prompts, tmp_path / "two", "--limit", 1, "--images", 2)
    other = generate(prompts, tmp_path / "other", "--limit", 1, "--seed", 1)
    assert [len(manifest) for manifest in (one, two, other)] == [1, 2, 1]
    first = image(tmp_path / "one" / "00000-0.png")
    assert np.abs(image(tmp_path / "two" / "00000-0.png") - first).max() < 1.1 / 255  # batches of 1 and 2 round differently
    assert np.abs(image(tmp_path / "two" / "00000-1.png") - first).max() > 0.1
    assert np.abs(image(tmp_path / "other" / "00000-0.png") - first).max() > 0.1


def test_geneval_layout_as_its_scorer_reads_it(tmp_path):
    metadata = [
        {"tag": "colors", "include": [{"class": "circle", "count": 1, "color": "red"}], "prompt": task.prompt}
        for task in COLOUR_TASKS
    ]
    prompts = tmp_path / "evaluation_metadata.jsonl"
    prompts.write_text("".join(json.dumps(entry) + "\n" for entry in metadata))
    generate(prompts, tmp_path / "out", "--layout", "geneval", "--images", 2)
    found = {}
    for folder in (tmp_path / "out").iterdir():
        if folder.is_dir() and folder.name.isdigit():
            with (folder / "metadata.jsonl").open() as file:
                entry = json.load(file)
            names = [path.name for path in (folder / "samples").iterdir() if re.match(r"\d+\.png", path.name)]
            found[folder.name] = (entry, sorted(names))
    assert found == {f"{n:05d}": (entry, ["0000.png", "0001.png"]) for n, entry in enumerate(metadata)}
    assert check(COLOUR_TASKS[1], image(tmp_path / "out" / "00001" / "samples" / "0000.png")).passed


def gedit_rows() -> list[dict]:
    return [
        {
            "key": f"key{n}",
            "task_type": "subject-remove",
            "instruction": task.prompt,
            "instruction_language": "en",
            "input_image": {"bytes": encode_png(render(task.source)), "path": None},
            "Intersection_exist": True,
        }
        for n, task in enumerate(REMOVE_TASKS)
    ]


@pytest.fixture
def gedit(tmp_path) -> Path:
    path = tmp_path / "gedit.parquet"
    pq.write_table(pa.Table.from_pylist(gedit_rows()), path)
    return path


def test_gedit_layout_as_its_scorer_reads_it(gedit, tmp_path):
    generate(gedit, tmp_path / "out", "--layout", "gedit", "--adapter", WEIGHTS / "local_edit")
    for n, task in enumerate(REMOVE_TASKS):
        folder = tmp_path / "out" / "fullset" / "subject-remove" / "en"
        assert np.abs(image(folder / f"key{n}_SRCIMG.png") - render(task.source)).max() < 0.6 / 255
        assert check(task, image(folder / f"key{n}.png")).passed, "the shipped local-edit expert removes things"


def test_a_checkpoint_and_its_average_generate(make_config, tiny_models, tmp_path):
    config = make_config("run.steps=4", "student.start={type: base}", "learner.learning_rate=0.05")
    reference(config)
    prompts = tmp_path / "p.txt"
    prompts.write_text("a red circle on white\n")
    checkpoint = config.folder / "checkpoints" / "step-000004"
    images = []
    for name, adapter in (("base", ()), ("student", ("--adapter", checkpoint)), ("ema", ("--adapter", checkpoint / "ema"))):
        (row,) = generate(prompts, tmp_path / name, *adapter, base=tiny_models.base)
        assert row["adapter"] == (str(adapter[1]) if adapter else None)
        images.append(image(tmp_path / name / row["file"]))
    base, student, ema = images
    assert np.abs(student - base).max() > 0.02
    assert np.abs(ema - student).max() > 0.01


def test_guidance_leads_away_from_the_dropped_prompt(prompts, tmp_path, tiny_models):
    (row,) = generate(prompts, tmp_path / "out", "--limit", 1, "--guidance", 3, base=tiny_models.base)
    family = SceneFamily()
    transformer = family.load_transformer(tiny_models.base)
    prompted = family.encode([Row("u", "t", COLOUR_TASKS[0].prompt)])

    def guided(x_t, t, condition):
        v_c, v_u = (family.velocity(transformer, x_t, t, c) for c in (condition, condition.variant(Variant(prompt="empty"))))
        return v_u + 3 * (v_c - v_u)

    x_T = noise(0, [row["number"]], (3, 24, 24), Stream.QUESTION_NOISE)
    images = {}
    for name, velocity in {"guided": guided, "plain": partial(family.velocity, transformer)}.items():
        images[name] = family.decode(rollout(velocity, x_T, time_grid(16), torch.tensor([[16]]), prompted, Euler())[0]).clip(
            0, 1
        )
    made = image(tmp_path / "out" / row["file"])
    assert np.abs(made - images["guided"][0]).max() < 1.1 / 255
    assert np.abs(made - images["plain"][0]).max() > 0.02


@pytest.fixture
def refuse(tmp_path, capsys):
    """Run the command; it must say in one line what is wrong, which is returned."""

    def run(prompts: Path, *more: object) -> str:
        arguments = ["--model", WEIGHTS / "base", "--family", "scene", "--prompts", prompts, "--out", tmp_path / "out", *more]
        assert main([str(argument) for argument in arguments]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        (line,) = captured.err.splitlines()
        return line

    return run


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--images", 0), "--images is 0; it must be from 1 to 1000"),
        (("--limit", 0), "--limit is 0; it must be at least 1"),
        (("--seed", -1), "--seed is -1; it must be from 0 to 2^64 - 1"),
        (("--guidance", "nan"), "--guidance is nan; it must be above 0 and finite"),
        (("--guidance", 1e308), "--guidance is 1e+308; it must be above 0 and finite, at most 1000"),
        (("--steps", 0), "--steps is 0; it must be at least 1"),
        (("--steps", 10**9), "--steps is 1000000000; it must be at least 1 and at most 10000"),
        (("--family", "sd9"), "unknown family 'sd9'; allowed: scene"),
        (("--model", "nowhere"), "nowhere is no scene model"),
        (("--adapter", "nowhere"), "nowhere"),
        (("--layout", "geneval"), "prompts.txt entry 1 is no GenEval metadata: it must be an object with `tag`"),
        (("--layout", "gedit", "--images", 2), "--images is 2; the layout of GEdit-Bench has one image per prompt"),
        (("--layout", "gedit"), "prompts.txt cannot be read as Parquet"),
    ],
)
def test_options(refuse, prompts, tmp_path, options, message):
    assert message in refuse(prompts, *options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("out", ["/dev/null/x", "/proc/none", "n" * 300])
def test_a_folder_that_cannot_be_written(refuse, prompts, tmp_path, out):
    assert out in refuse(prompts, "--out", tmp_path / out)


def test_metadata_nested_too_deep(refuse, prompts):
    prompts.write_text("[" * 100_000)
    assert "prompts.txt entry 1 is no GenEval metadata" in refuse(prompts, "--layout", "geneval")


def test_prompts(refuse, prompts, tmp_path):
    prompts.write_text("\n")
    assert "prompts.txt has no prompts" in refuse(prompts)
    prompts.write_text("a blue elephant")
    assert "row 'line-1': prompt 'a blue elephant': the scene world doesn't know 'elephant'" in refuse(prompts)


def test_prompts_without_end_are_not_shown(refuse, prompts):
    prompts.write_text("elephant" * 20_000)
    assert "row 'line-1': prompt has 160000 characters; at most 100000 are read" in refuse(prompts)
    prompts.write_text("elephant" * 10_000)
    assert len(refuse(prompts)) < 1000


def test_a_folder_with_something_in_it(refuse, prompts, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "other").write_text("x")
    assert "out is not empty; name a new folder" in refuse(prompts)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"key": "../x"}, "row 0 ('../x'): key is '../x'; it becomes the name of a file and must be one"),
        ({"key": "k" * 201}, "kkk'; it becomes the name of a file and has more than 200 bytes"),
        ({"task_type": None}, "row 0 ('key0'): task_type is None; it becomes the name of a file"),
        ({"input_image": None}, "row 0 ('key0'): input_image holds no encoded image"),
        ({"instruction": None}, "row 0 ('key0'): instruction is None; it must be text"),
    ],
)
def test_gedit_rows(refuse, gedit, tmp_path, changes, message):
    pq.write_table(pa.Table.from_pylist([{**gedit_rows()[0], **changes}]), gedit)
    assert message in refuse(gedit, "--layout", "gedit")


def test_gedit_columns(refuse, gedit):
    pq.write_table(pa.Table.from_pylist(gedit_rows()).drop_columns(["key"]), gedit)
    assert "gedit.parquet lacks column 'key'; it has task_type, instruction" in refuse(gedit, "--layout", "gedit")
