"""The benchmark as a command: what it measures, and that it puts away what it deployed."""

import json
import os
import re
from pathlib import Path

import pytest
import torch

from pipelines.bench import _PLACES, main
from pipelines.parts.check_files import checked_parts
from pipelines.parts.pace import StepSeconds
from pipelines.reports import measurement
from pipelines.reports.measurement import Measurement
from pipelines.run.benchmark import _limit
from pipelines.run.mixed_batches import mixed_batches
from pipelines.run.part_times import part_times
from pipelines.run.publication import publication
from pipelines.run.released_schedule import schedules
from services import applications


def test_the_limit_is_that_of_the_parts(make_config):
    config = make_config("learner.batch_size=10")
    taken = part_times(checked_parts(config), 2)
    assert len(taken) == 2, "one each repetition"
    assert min(min(one.encode, one.rollout, one.learner, one.beside, *one.experts.values()) for one in taken) > 0
    steps = [
        StepSeconds(encode=1, rollout=rollout, experts={"text_to_image": 1}, learner=1.5, beside=0.5) for rollout in (5, 6, 70)
    ]
    cores = os.cpu_count() or 1
    assert _limit(config, steps) == pytest.approx(min(10 * cores / 10, 10 / 1.5)), "the median rollout"
    threads = make_config("learner.batch_size=10", f"numerics.threads={cores}")
    assert _limit(threads, steps) == pytest.approx(10 / 10)


@pytest.mark.slow
def test_every_part_and_every_lag_is_timed(cluster, config_file, capsys):
    assert main([str(config_file), "--steps", "6", "--repeats", "1"]) == 0
    said = capsys.readouterr().out
    limit = float(re.search(r"the limit is\s+([\d.]+)", said)[1])
    parts = {}
    for part in ("encode", "rollout", "expert", "learner", "publish"):
        median, lowest, highest = re.search(rf"{part} +│ +([\d.]+) │ +([\d.]+) │ +([\d.]+) │", said).groups()
        assert median == lowest == highest, "one repeat has no spread"
        parts[part] = float(median)
    slowest = max(sum(parts.values()) / os.cpu_count(), parts["learner"])
    assert limit == pytest.approx(1000 / slowest, rel=0.02), "the table rounds to 0.01 ms"
    rounded, half = 0.005, 0.05
    for run in ("reference", "lag 0", "lag 1", "lag 2"):
        rate, of_the_limit = re.search(rf"{run} +│ +([\d.]+) │.*│ +(\d+) % │", said).groups()
        lowest, highest = (100 * (float(rate) + sign * rounded) / (limit - sign * half) for sign in (-1, 1))
        assert lowest - 0.5 <= float(of_the_limit) <= highest + 0.5, "printed to 0.01, to 0.1 and to 1 %"
    assert [name for name in applications.listed() if name.startswith("bench:")] == []


@pytest.mark.slow
@pytest.mark.parametrize("which", ["ranks", "workers", "replicas"])
def test_processes_are_timed_with_simulated_model_time(cluster, config_file, capsys, which):
    """What one sleeps is the least that a step takes, and two sleep at the same time."""
    assert main([str(config_file), "--steps", "6", f"--{which}", "1", "2", "--model-seconds", "8"]) == 0
    said = capsys.readouterr().out
    rates = [float(re.search(rf"│ +{number} +│ +([\d.]+) │", said)[1]) for number in (1, 2)]
    assert rates[0] < 4 / 8
    assert 1.4 * rates[0] < rates[1] < 8 / 8


def test_tables_go_into_their_places_and_every_number_beside_them(tmp_path, capsys):
    document = tmp_path / "performance.md"
    document.write_text("Before.\n<!-- a -->\nold\n<!-- end -->\nBetween.\n<!-- b -->\n<!-- end -->\nAfter.\n")
    one = Measurement(name="a", title="Seconds", columns=["who", "median"], rows=[["x", "1.50"]], raw={"seconds": [1, 2]})
    measurement.write([one], tmp_path)
    assert document.read_text() == (
        "Before.\n<!-- a -->\nSeconds:\n\n| who | median |\n| --- | --- |\n| x | 1.50 |\n<!-- end -->\nBetween.\n"
        "<!-- b -->\n<!-- end -->\nAfter.\n"
    )
    numbers = json.loads((tmp_path / "performance.json").read_text())
    assert numbers["a"] == {"title": "Seconds", "seconds": [1, 2]}
    assert numbers["versions"]["torch"] == torch.__version__
    assert main(["--write", str(tmp_path / "none")]) == 2
    assert f"there is no {tmp_path / 'none' / 'performance.md'}" in capsys.readouterr().err
    assert main(["--write", str(tmp_path)]) == 2
    assert "has no place for schedules: <!-- schedules --> ... <!-- end -->" in capsys.readouterr().err


def test_the_documents_of_the_project_have_a_place_for_every_table():
    measurement.require_places(_PLACES, Path("docs"))


def test_the_released_schedule_is_more_work_for_the_same_samples(config_file):
    """Sixteen forwards instead of those up to the query, one sample at a time: what decides is counted, not timed."""
    found = schedules(config_file, 1)
    released, own = found.raw["cpu_seconds_per_sample"].values()
    assert len(released) == len(own) == 1
    assert found.raw["ratios"] == [released[0] / own[0]]
    assert found.raw["ratios"][0] > 1.2


def test_batches_of_several_routes_are_fuller_and_timed_against_those_of_one(config_file):
    found = mixed_batches(config_file, [2], 1)
    ((routes, apart, mixed, *_),) = found.rows
    assert (routes, float(apart) < float(mixed)) == ("6", True)
    (raw,) = found.raw.values()
    assert raw["samples_of_a_batch"]["mixed"] > raw["samples_of_a_batch"]["apart"]
    (a,), (b,) = raw["cpu_seconds_of_a_step"].values()
    assert raw["ratios"] == [a / b]


@pytest.mark.slow
def test_publication_is_timed_for_every_size_and_number_of_workers(cluster):
    found = publication([4], [1, 2], 2)
    assert [row[:2] for row in found.rows] == [["4 MB", "1"], ["4 MB", "2"]]
    assert all(len(one["seconds"]) == 2 and min(one["seconds"]) > 0 for one in found.raw.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ranks", "1", "0"], "--ranks 1 0 --model-seconds 4: allowed are numbers above 0"),
        (["--mixed", "0"], "--mixed 0 --model-seconds 4: allowed are numbers above 0"),
        (["--workers", "0", "1"], "--workers 0 1 --model-seconds 4: allowed are numbers above 0"),
        (["--ranks", "1", "--model-seconds", "0"], "--ranks 1 --model-seconds 0: allowed are numbers above 0"),
        (["--steps", "4"], "--steps 4 --repeats 3: allowed are steps above 4, repeats above 0"),
        (["--repeats", "0"], "--steps 24 --repeats 0: allowed are steps above 4, repeats above 0"),
    ],
)
def test_too_little_to_measure_is_refused(config_file, capsys, arguments, message):
    assert main([str(config_file), *arguments]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
