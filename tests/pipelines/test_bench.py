"""The benchmark as a command: what it measures, and that it puts away what it deployed."""

import os
import re

import pytest

from pipelines.bench import main
from pipelines.parts.check_files import checked_parts
from pipelines.parts.pace import StepSeconds
from pipelines.run.benchmark import _limit
from pipelines.run.part_times import part_times
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
    for run in ("reference", "lag 0", "lag 1", "lag 2"):
        rate, of_the_limit = re.search(rf"{run} +│ +([\d.]+) │.*│ +(\d+) % │", said).groups()
        assert float(of_the_limit) == pytest.approx(100 * float(rate) / limit, abs=0.6)
    assert [name for name in applications.listed() if name.startswith("bench:")] == []


@pytest.mark.slow
@pytest.mark.parametrize("which", ["ranks", "workers"])
def test_processes_are_timed_with_simulated_model_time(cluster, config_file, capsys, which):
    """What one sleeps is the least that a step takes, and two sleep at the same time."""
    assert main([str(config_file), "--steps", "6", f"--{which}", "1", "2", "--model-seconds", "2"]) == 0
    said = capsys.readouterr().out
    rates = [float(re.search(rf"│ +{number} │ +([\d.]+) │", said)[1]) for number in (1, 2)]
    assert rates[0] < 4 / 2
    assert 1.4 * rates[0] < rates[1] < 8 / 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ranks", "1", "0"], "--ranks 1 0 --model-seconds 4: allowed are numbers above 0"),
        (["--workers", "0", "1"], "--workers 0 1 --model-seconds 4: allowed are numbers above 0"),
        (["--ranks", "1", "--model-seconds", "0"], "--ranks 1 --model-seconds 0: allowed are numbers above 0"),
        (["--steps", "4"], "--steps 4 --repeats 3: allowed are steps above 4, repeats above 0"),
        (["--repeats", "0"], "--steps 24 --repeats 0: allowed are steps above 4, repeats above 0"),
    ],
)
def test_too_little_to_measure_is_refused(config_file, capsys, arguments, message):
    assert main([str(config_file), *arguments]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
