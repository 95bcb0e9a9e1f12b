"""The main promise: a distributed run gives the student of the reference loop, to the last bit."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.journal import METRICS, rows
from fields import checkpoint
from pipelines import deployment
from pipelines.config import RunConfig
from runs import distributed, reference, trained, trained_ids


@pytest.mark.parametrize(("lag", "workers"), [(0, 2), (2, 2), (2, 1)])
def test_distributed_run_equals_the_reference(cluster, make_config, lag, workers):
    lagged = make_config(f"learner.lag={lag}", f"rollout.workers={workers}", f"run.name=lag{lag}")
    expected = reference(make_config(f"learner.lag={lag}", "run.name=reference"))
    actual = distributed(lagged)
    assert actual.weights.checksum == expected.weights.checksum
    journal = rows(lagged.folder / METRICS)
    assert [row["policy_version"] for row in journal] == [max(0, step - lag) for step in range(8)]
    assert [row["loss"] for row in journal] == [row["loss"] for row in rows(lagged.folder.parent / "reference" / METRICS)]
    assert sorted(trained_ids(lagged.folder)) == list(range(8 * 12))


METHODS = {
    "flowopd": ["preset=flowopd", "rollout.shift=3"],
    "soft, anchored, two queries, heun": [
        "routing={type: soft, mix: {text_to_image: {text_to_image: 1}, local_edit: {text_to_image: 0.25, local_edit: 0.75}, "
        "global_edit: {local_edit: 0.5, global_edit: 0.5}}}",
        "anchor={expert: text_to_image, weight: 0.5}",
        "query.k=2",
        "rollout.solver=heun",
    ],
    "joint_sft": ["preset=joint_sft"],
    "expert rollout, pdm": ["state={type: expert_rollout}", "objective={type: pdm, weight: 0.5}"],
}


SHORT = ("run.steps=4", "rollout.steps=6", "rollout.workers=1", "learner.batch_size=6", "learner.lag=1", "run.services=methods")


@pytest.fixture(scope="module")
def methods(cluster) -> Iterator[list[RunConfig]]:
    """Runs on one set of services, which stand till the last of them: what a method asks of them is all that differs."""
    configs: list[RunConfig] = []
    yield configs
    deployment.delete(configs[0], wait=True)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_distributed_equals_the_reference(methods, make_config, method):
    config = make_config(*SHORT, *METHODS[method], "run.name=distributed")
    if not methods:
        deployment.deploy(config)
    methods.append(config)
    expected = reference(make_config(*SHORT, *METHODS[method], "run.name=reference"))
    assert trained(config).checksum == expected.weights.checksum
    losses, others = (rows(config.folder.parent / name / METRICS) for name in ("distributed", "reference"))
    assert [row["loss"] for row in losses] == [row["loss"] for row in others]
    assert sorted(trained_ids(config.folder)) == list(range(4 * 6))


def test_a_student_that_is_its_expert_already_learns_nothing(methods, make_config):
    """Versions then differ in their number alone, and every rollout still names the one that it was asked for."""
    alone = (*SHORT, "routes.text_to_image.weight=0", "routes.global_edit.weight=0", "learner.lag=0", "run.steps=3")
    config = make_config(*alone, "run.name=same")
    if not methods:
        deployment.deploy(config)
    methods.append(config)
    assert trained(config).checksum == reference(make_config(*alone, "run.name=reference")).weights.checksum
    journal = rows(config.folder / METRICS)
    assert [(row["loss"], row["policy_version"]) for row in journal] == [(0.0, 0), (0.0, 1), (0.0, 2)]


def test_a_full_student_equals_the_reference(cluster, make_config):
    full = "student={type: full, start: {type: expert, expert: local_edit}}"
    overrides = (full, "run.steps=4", "rollout.workers=1", "learner.lag=1")
    expected = reference(make_config(*overrides, "run.name=reference"))
    assert distributed(make_config(*overrides, "run.name=full")).weights.checksum == expected.weights.checksum
    assert len(expected.weights.tensors) > 30, "not only an adapter's tensors"


def test_experts_on_one_base_teach_what_separate_ones_do(cluster, make_config):
    """Mixed batches sum in another order: the students agree to 1e-3 of what they learned, and a repetition to the last bit."""
    overrides = (
        "run.steps=4",
        "rollout.workers=1",
        "learner.lag=1",
        *(f"experts.{name}.placement=shared" for name in make_config().experts),
    )
    start = reference(make_config(*overrides, "run.steps=1", "learner.learning_rate=1e-12")).weights.tensors
    expected = reference(make_config(*overrides, "run.name=reference")).weights.tensors
    shared = [distributed(make_config(*overrides, f"run.name=shared{n}")).weights for n in range(2)]
    assert shared[0].checksum == shared[1].checksum
    learned = sum((expected[name] - tensor).square().sum() for name, tensor in start.items()) ** 0.5
    apart = sum((expected[name] - tensor).square().sum() for name, tensor in shared[0].tensors.items()) ** 0.5
    assert learned > 0.1
    assert apart < 1e-3 * learned


def test_another_lag_is_another_student(make_config):
    """Or the equality above would hold for a run that ignores its lag."""
    assert reference(make_config("learner.lag=0")).weights.checksum != reference(make_config("learner.lag=2")).weights.checksum


def test_a_killed_driver_is_resumed_to_the_same_student(cluster, config_file, make_config):
    undisturbed = reference(make_config("learner.lag=2", "run.steps=24", "run.name=undisturbed"))
    config = make_config("learner.lag=2", "run.steps=24", "run.name=killed")
    command = [
        *(sys.executable, "-m", "pipelines.distill", str(config_file), "--address", cluster),
        *("learner.lag=2", "run.steps=24", "run.name=killed"),
        "experts.local_edit.num_cpus=5",  # of 8: what the killed driver leaves deployed stands in the way of the next one
    ]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    saved = config.folder / "checkpoints" / "step-000004"
    _wait_for(lambda: saved.exists() and len(rows(config.folder / METRICS)) > 5)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    found = checkpoint.newest(config.folder / "checkpoints")
    assert found is not None
    assert checkpoint.read(found).step < 24, "the run was over before it was killed"
    finished = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert finished.returncode == 0, finished.stderr
    assert f"from {config.folder}" in finished.stdout.replace("\n", "")
    assert checkpoint.read(config.folder / "checkpoints" / "step-000024").published[24].checksum == undisturbed.weights.checksum
    assert trained_ids(config.folder) == trained_ids(undisturbed_folder(make_config))


def undisturbed_folder(make_config) -> Path:
    return make_config("run.name=undisturbed").folder


def _wait_for(condition, seconds: float = 180.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
