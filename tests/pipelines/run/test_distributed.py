"""The main promise: a distributed run gives the student of the reference loop, to the last bit."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import ray
from ray.util.state import list_actors
from waiting import LIMIT_S, wait_for

from actors.journal import METRICS, SKILLS, rows
from fields import checkpoint
from pipelines.cluster.deployment import RunServices
from pipelines.config.run import BASE, BEFORE, RunConfig
from pipelines.parts.check_files import checked_parts
from pipelines.parts.run_parts import RunParts
from pipelines.run.learner_parts import curriculum
from pipelines.run_folder.address import recorded_address
from runs import counted_svds, distributed, reference, trained, trained_ids


def test_distributed_run_equals_the_reference(cluster, make_config):
    config = make_config("run.name=own")
    expected = reference(make_config("run.name=reference"))
    assert distributed(config).weights.checksum == expected.weights.checksum
    assert recorded_address(config.folder) == ray.get_runtime_context().gcs_address
    assert_the_same_steps(config, lag=0)
    assert sorted(trained_ids(config.folder)) == list(range(8 * 12))
    journal = rows(config.folder / METRICS)
    waited = [row["wait_seconds"] for row in journal if row["step"] != 4]  # which rolls out while a checkpoint is written
    assert min(waited) > 0, "each step waits for its own rollouts"
    assert min(row["update_seconds"] for row in journal) > 0
    assert [row["step"] for row in journal if row["save_seconds"]] == [4], "the checkpoint after four steps, before the fifth"
    parts = [row["wait_seconds"] + row["update_seconds"] + row["save_seconds"] for row in journal]
    assert 0.8 * journal[-1]["seconds"] < sum(parts) <= journal[-1]["seconds"] + 0.01, "nearly all of the time is told"


@pytest.mark.slow  # a lag of 1 is among the quick tests
@pytest.mark.parametrize("workers", [1, 2])
def test_a_stale_run_equals_the_reference_with_its_lag(on_standing, make_config, workers):
    config = on_standing("learner.lag=2", f"rollout.workers={workers}", "run.name=lagged")
    expected = reference(make_config("learner.lag=2", "run.name=reference"))
    assert trained(config).checksum == expected.weights.checksum
    assert_the_same_steps(config, lag=2)
    assert sorted(trained_ids(config.folder)) == list(range(8 * 12))


@pytest.mark.slow
def test_versions_that_are_not_published_are_passed_over(on_standing, make_config):
    """Also in a run that continues between two publications."""
    settings = "publish.every=3", "learner.lag=1", "rollout.workers=1", "checkpoint.every=5"
    expected = reference(make_config(*settings, "run.name=reference"))
    config = on_standing(*settings, "run.name=sparse")
    assert trained(on_standing(*settings, "run.name=sparse", "run.steps=5")).checksum != expected.weights.checksum
    newest = checkpoint.newest(config.folder / "checkpoints")
    assert list(checkpoint.read(newest).checksums) == [3]
    assert trained(config, resume=newest).checksum == expected.weights.checksum
    assert [row["policy_version"] for row in rows(config.folder / METRICS)] == [0, 0, 0, 0, 3, 3, 3, 6]
    assert_the_same_losses(config)


def assert_the_same_steps(config: RunConfig, lag: int) -> None:
    """As the run named `reference` beside it took."""
    journal = rows(config.folder / METRICS)
    assert [row["policy_version"] for row in journal] == [max(0, step - lag) for step in range(config.run.steps)]
    assert_the_same_losses(config)


def assert_the_same_losses(config: RunConfig) -> None:
    """As the run named `reference` beside it had."""
    journal = rows(config.folder / METRICS)
    assert [row["loss"] for row in journal] == [row["loss"] for row in rows(config.folder.parent / "reference" / METRICS)]


@pytest.mark.slow
def test_conditions_carry_the_empty_prompt_where_something_reads_it(on_standing):
    """Then runs without readers equal the reference loop, which always encodes it, in the tests around this one."""
    guided = "experts.local_edit.operator={type: guidance, scale: 3}"
    assert curriculum(checked_parts(on_standing())).reads_empty == set()
    assert curriculum(checked_parts(on_standing(guided))).reads_empty == {"local_edit"}


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
    "unmerged": ["rollout.merge=false"],
    "expert rollout, pdm": ["state={type: expert_rollout}", "objective={type: pdm, weight: 0.5}"],
    "mixed batches, anchored, pdm, two queries": [
        "rollout.mix_routes=true",
        "anchor={expert: text_to_image, weight: 0.5}",
        "objective={type: pdm, weight: 0.5}",
        "query.k=2",
        "learner.micro_batch=2",
    ],
    "mixed batches, joint_sft": ["rollout.mix_routes=true", "preset=joint_sft"],
    "mixed batches, expert rollout": ["rollout.mix_routes=true", "state={type: expert_rollout}"],
}


SHORT = ("run.steps=4", "rollout.steps=6", "rollout.workers=1", "learner.batch_size=6", "learner.lag=1")


@pytest.mark.slow  # what each teaches is among the quick tests of test_methods.py
@pytest.mark.parametrize("method", list(METHODS))
def test_every_method_distributed_equals_the_reference(on_standing, make_config, method):
    config = on_standing(*SHORT, *METHODS[method], "run.name=distributed")
    batches = [batch for step in range(4) for batch in checked_parts(config).plan.batches(step)]
    assert max(map(len, batches)) == 1 + ("mixed batches" in method)
    expected = reference(make_config(*SHORT, *METHODS[method], "run.name=reference"))
    assert trained(config).checksum == expected.weights.checksum
    assert_the_same_steps(config, lag=1)
    assert sorted(trained_ids(config.folder)) == list(range(4 * 6))


@pytest.mark.slow
def test_a_student_that_is_its_expert_already_learns_nothing(on_standing, make_config):
    """Versions then differ in their number alone, and every rollout still names the one that it was asked for."""
    alone = (*SHORT, "routes.text_to_image.weight=0", "routes.global_edit.weight=0", "learner.lag=0", "run.steps=3")
    config = on_standing(*alone, "run.name=same")
    assert trained(config).checksum == reference(make_config(*alone, "run.name=reference")).weights.checksum
    journal = rows(config.folder / METRICS)
    assert [(row["loss"], row["policy_version"]) for row in journal] == [(0.0, 0), (0.0, 1), (0.0, 2)]


@pytest.mark.slow
def test_a_full_student_equals_the_reference(on_standing, make_config):
    full = "student={type: full, start: {type: expert, expert: local_edit}}"
    overrides = (full, "run.steps=4", "rollout.workers=1", "learner.lag=1")
    expected = reference(make_config(*overrides, "run.name=reference"))
    assert trained(on_standing(*overrides, "run.name=full")).checksum == expected.weights.checksum
    assert len(expected.weights.tensors) > 30, "not only an adapter's tensors"


@pytest.mark.slow
def test_a_merged_start_is_computed_by_the_learner_alone(cluster, make_config, monkeypatch):
    """And examined, before the training, as the reference's; later exams measure how far rollouts are from the learner."""
    merge = ("student.start={type: merge, experts: {local_edit: 0.5, global_edit: 0.5}}", "eval.every=1", "run.steps=2")
    expected = reference(make_config(*merge, "run.name=reference"))
    decomposed = counted_svds(monkeypatch)
    outcome = distributed(make_config(*merge, "run.name=merged"))
    assert decomposed == [], "the driver merged"
    assert outcome.weights.checksum == expected.weights.checksum
    assert outcome.results[BEFORE].skills == expected.results[BEFORE].skills
    assert np.array_equal(outcome.results[BEFORE].picture, expected.results[BEFORE].picture)
    assert not np.array_equal(outcome.results[BEFORE].picture, outcome.results[BASE].picture)
    assert outcome.results["text_to_image"].skills == outcome.results[BASE].skills
    for expert in ("text_to_image", "local_edit", "global_edit"):
        assert outcome.results[expert].skills == expected.results[expert].skills
        assert np.array_equal(outcome.results[expert].picture, outcome.results[BASE].picture) == (expert == "text_to_image")
    exams, as_expected = (rows(make_config(f"run.name={name}").folder / SKILLS) for name in ("merged", "reference"))
    assert exams[1:] == as_expected, "rollout_mismatch too; the reference writes no row of its start"
    assert all(0 < row["rollout_mismatch"] < 1e-4 for row in as_expected)
    reference(make_config(*merge, "run.name=unmerged", "rollout.merge=false"))
    assert [row["rollout_mismatch"] for row in rows(make_config("run.name=unmerged").folder / SKILLS)] == [0, 0]


@pytest.mark.slow
def test_experts_on_one_base_teach_what_separate_ones_do(cluster, make_config, request):
    """Mixed batches sum in another order: the students agree to 1e-3 of what they learned, and a repetition to the last bit."""
    overrides = (
        "run.steps=4",
        "rollout.workers=1",
        "learner.lag=1",
        *(f"experts.{name}.placement=shared" for name in make_config().experts),
    )
    start = reference(make_config(*overrides, "run.steps=1", "learner.learning_rate=1e-12")).weights.tensors
    expected = reference(make_config(*overrides, "run.name=reference")).weights.tensors
    runs = [make_config(*overrides, "run.services=one-base", f"run.name=shared{n}") for n in range(2)]
    request.addfinalizer(lambda: RunServices(RunParts(runs[0])).delete(wait=True))
    RunServices(RunParts(runs[0])).deploy()
    shared = [trained(run) for run in runs]
    assert shared[0].checksum == shared[1].checksum
    learned = sum((expected[name] - tensor).square().sum() for name, tensor in start.items()) ** 0.5
    apart = sum((expected[name] - tensor).square().sum() for name, tensor in shared[0].tensors.items()) ** 0.5
    assert learned > 0.1
    assert apart < 1e-3 * learned


def test_another_lag_is_another_student(make_config):
    """Or the equality above would hold for a run that ignores its lag."""
    assert reference(make_config("learner.lag=0")).weights.checksum != reference(make_config("learner.lag=2")).weights.checksum


@pytest.mark.slow
def test_a_run_that_finds_its_own_number_of_workers_learns_the_same(on_standing, make_config):
    settings = "run.steps=60", "rollout.workers=1", "rollout.group_size=2", "learner.lag=1"
    config = on_standing(*settings, "rollout.autoscaling.most=3", "run.name=grown")
    assert trained(config).checksum == reference(make_config(*settings, "run.name=reference")).weights.checksum
    assert sorted(trained_ids(config.folder)) == list(range(60 * 12))
    address = ray.get_runtime_context().gcs_address
    workers = {actor.name for actor in list_actors(address=address, limit=1000) if actor.name.startswith("grown/rollout-")}
    assert {"grown/rollout-0", "grown/rollout-1"} <= workers


@pytest.mark.slow
def test_a_checkpoint_of_the_reference_continues_on_a_cluster(on_standing, make_config):
    """The half of what follows a killed driver; the kill itself is slow, and stands below."""
    overrides = ("learner.lag=2", "rollout.workers=1")
    expected = reference(make_config(*overrides, "run.name=reference"))
    config = on_standing(*overrides, "run.name=continued")
    reference(make_config(*overrides, "run.steps=4", "run.name=continued"))
    newest = checkpoint.newest(config.folder / "checkpoints")
    assert newest is not None
    assert trained(config, resume=newest).checksum == expected.weights.checksum
    assert_the_same_steps(config, lag=2)
    assert trained_ids(config.folder) == trained_ids(config.folder.parent / "reference")


@pytest.mark.slow
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
    wait_for(lambda: saved.exists() and len(rows(config.folder / METRICS)) > 5, "six steps and a checkpoint", every_s=0.05)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    found = checkpoint.newest(config.folder / "checkpoints")
    assert found is not None
    assert checkpoint.read(found).step < 24, "the run was over before it was killed"
    finished = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    assert finished.returncode == 0, finished.stderr
    assert f"from {config.folder}" in finished.stdout.replace("\n", "")
    assert checkpoint.read(config.folder / "checkpoints" / "step-000024").published[24].checksum == undisturbed.weights.checksum
    assert trained_ids(config.folder) == trained_ids(undisturbed_folder(make_config))


def undisturbed_folder(make_config) -> Path:
    return make_config("run.name=undisturbed").folder
