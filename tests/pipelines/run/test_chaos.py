"""One run, watched from outside and disturbed: an expert's only replica and a rollout worker are killed at work."""

import threading
from dataclasses import dataclass

import metrics_port
import psutil
import pytest
import ray
from ray import serve
from ray.util.state import list_actors
from waiting import LIMIT_S, wait_for

from pipelines.run_folder.outcome import Outcome
from runs import distributed, reference, trained_ids

STEPS = 24
BATCH = 192  # large groups and guidance: calls long enough to be killed in
OVERRIDES = (
    f"run.steps={STEPS}",
    f"learner.batch_size={BATCH}",
    f"rollout.group_size={BATCH}",
    "learner.lag=2",
    "routes.text_to_image.weight=0.1",
    "routes.global_edit.weight=0.1",
    "experts.local_edit.operator={type: guidance, scale: 2.0}",
)


@dataclass(frozen=True)
class Watched:
    outcome: Outcome
    reference: Outcome
    ids: list[int]
    actors: set[str]
    applications: set[str]
    metrics: str


@pytest.fixture
def watched(cluster, make_config) -> Watched:
    expected = reference(make_config(*OVERRIDES, "run.name=calm"))
    config = make_config(*OVERRIDES, "run.name=chaos")
    outcomes: list[Outcome] = []
    run = threading.Thread(target=lambda: outcomes.append(distributed(config)))
    run.start()
    wait_for(
        lambda: "field_step" in metrics_port.shown() and len(trained_ids(config.folder)) > 0, "the first step, and its metric"
    )
    actors = {
        actor.name
        for actor in list_actors(address=ray.get_runtime_context().gcs_address, filters=[("state", "=", "ALIVE")], limit=1000)
    }
    applications = set(serve.status().applications)
    _kill_at_work("SERVE_REPLICA::chaos-local_edit#")
    wait_for(lambda: "field_call_retries_total{" in metrics_port.shown(), "a repeated call")
    _kill_at_work("chaos/rollout-0")
    wait_for(lambda: "field_rollout_retries_total{" in metrics_port.shown(), "a repeated rollout")
    starts = "ray_field_process_starts_total", 'process="chaos/rollout-0"'
    wait_for(lambda: sum(metrics_port.values(metrics_port.shown(), *starts)) == 2, "the second start of the worker")
    wait_for(lambda: metrics_port.values(metrics_port.shown(), "ray_field_staleness", 'run="chaos"') == [2], "a staleness of 2")
    metrics = metrics_port.shown()
    run.join(LIMIT_S)
    assert outcomes, "the run did not end"
    return Watched(outcomes[0], expected, trained_ids(config.folder), actors, applications, metrics)


@pytest.mark.slow
def test_a_disturbed_run_is_visible_and_ends_with_the_same_student(watched):
    assert watched.outcome.weights.checksum == watched.reference.weights.checksum
    assert sorted(watched.ids) == list(range(STEPS * BATCH))
    assert {"chaos/learner", "chaos/rollout-0", "chaos/rollout-1"} <= watched.actors
    names = {f"chaos-{service}" for service in ("text_to_image", "local_edit", "global_edit", "encoder")}
    assert names <= watched.applications
    for metric in ("loss", "target_norm", "step", "staleness", "stream_depth", "samples_total", "step_seconds_total"):
        assert f"ray_field_{metric}{{" in watched.metrics, metric
    assert _value(watched.metrics, "ray_field_call_retries_total", 'service="local_edit"') >= 1
    assert _value(watched.metrics, "ray_field_rollout_retries_total", 'run="chaos"') >= 1
    assert 'route="global_edit"' in watched.metrics


def _kill_at_work(prefix: str) -> None:
    """SIGKILL the one actor of that name while it computes: when two thirds of the last 30 ms were CPU time."""
    actors = list_actors(
        address=ray.get_runtime_context().gcs_address, filters=[("state", "=", "ALIVE")], limit=1000, detail=True
    )
    (pid,) = [actor.pid for actor in actors if actor.name and actor.name.startswith(prefix)]
    process = psutil.Process(pid)
    used = [sum(process.cpu_times()[:2])]

    def at_work() -> bool:
        used.append(sum(process.cpu_times()[:2]))
        return used[-1] - used[-2] >= 0.02

    wait_for(at_work, f"{prefix} at work", every_s=0.03)
    process.kill()


def _value(metrics: str, name: str, label: str) -> float:
    (value,) = metrics_port.values(metrics, name, label)
    return value
