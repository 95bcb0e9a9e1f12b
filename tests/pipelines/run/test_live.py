"""A run while it goes on, on standing services: it is shown, scaled, changed and stopped, and the student is as planned."""

import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import ray
from waiting import wait_for

from actors.journal import METRICS, rows
from fields import checkpoint
from pipelines import change, scale
from pipelines.config.run import RunConfig
from pipelines.run_folder.outcome import write_config
from pipelines.watch.cluster_state import ClusterState, read_cluster
from runs import distributed, reference, trained_ids

OVERRIDES = ("learner.lag=2", "learner.batch_size=6", "rollout.steps=4", "rollout.workers=1", "checkpoint.every=1000000")


@dataclass(frozen=True)
class Live:
    """A run that trains in a thread until it is stopped."""

    config: RunConfig
    training: threading.Thread

    def stop(self) -> None:
        """Ask the learner to stop, as SIGTERM does, and wait until the run has ended."""
        if self.training.is_alive():
            ray.get(ray.get_actor(f"{self.config.run.name}/learner").stop.remote())
        self.training.join()


@pytest.fixture(params=[1, pytest.param(2, marks=pytest.mark.slow)])
def live(on_standing, request: pytest.FixtureRequest) -> Iterator[Live]:
    """After its first step; its learner has so many ranks."""
    ranks = request.param
    config = on_standing(*OVERRIDES, f"run.name=live-{ranks}", f"learner.ranks={ranks}", "run.steps=100000")
    write_config(config)
    training = threading.Thread(target=distributed, args=(config,))
    training.start()
    run = Live(config, training)
    try:
        wait_for(lambda: rows(config.folder / METRICS) or not training.is_alive(), "the first step")
        yield run
    finally:
        run.stop()


def steps_done(config: RunConfig) -> int:
    return len(rows(config.folder / METRICS))


def test_a_run_is_shown_scaled_changed_and_stopped(live, cluster, make_config, capsys):
    config = live.config
    shown = shown_at_work(config)
    assert (shown.learner, shown.workers) == (True, 1)
    assert 0 < shown.depth <= 3
    assert len(shown.ranks) == (config.learner.ranks if config.learner.ranks > 1 else 0)
    for rank in shown.ranks:
        assert 0 < rank.waiting < 1
        assert 1e8 < rank.memory_bytes < 1e11
    services = {name: (service.running, service.wanted) for name, service in shown.services.items()}
    assert services == dict.fromkeys(("text_to_image", "local_edit", "global_edit", "encoder"), (1, 1))

    where = ("--address", cluster)
    assert scale.main([str(config.folder), "rollout=2", *where]) == 0
    assert scale.main([str(config.folder), "rollout=99", *where]) == 2
    said = capsys.readouterr()
    assert said.out.removeprefix("waiting for rollout: 1 -> 2\n") == "rollout: 1 -> 2\n"  # said after 5 s
    assert said.err.startswith(
        "error: num_cpus: the run needs 9.7 (rollout 97 x 0.1); the cluster, beside what others hold, has "
    )
    assert read_cluster(config).workers == 2

    first_open = change_refused(config, where, capsys)
    step = next(
        step
        for ahead in (20, 100, 500, 2500)  # the run goes on while the change is made
        if change.main([str(config.folder), "--at", str(step := first_open + ahead), "routes.local_edit.weight=9", *where]) == 0
    )
    assert f"from step {step} on: routes.local_edit.weight=9" in capsys.readouterr().out
    wait_for(lambda: steps_done(config) > step + 2, lambda: f"step {step + 2}; {steps_done(config)} are done")
    live.stop()
    assert not read_cluster(config).learner
    newest = checkpoint.newest(config.folder / "checkpoints")
    assert newest is not None
    stopped = checkpoint.read(newest)
    assert stopped.step == steps_done(config)
    planned = (f"run.steps={stopped.step}", f"routes.local_edit.weight_changes={{{step}: 9}}", "run.name=planned")
    assert stopped.published[stopped.step].checksum == reference(make_config(*OVERRIDES, *planned)).weights.checksum
    assert trained_ids(config.folder) == trained_ids(make_config("run.name=planned").folder)


def shown_at_work(config: RunConfig) -> ClusterState:
    """What the cluster shows once the metrics port knows of steps in flight."""
    states = [read_cluster(config)]

    def at_work() -> ClusterState | None:
        states.append(read_cluster(config))
        return states[-1] if states[-1].depth and all(rank.step for rank in states[-1].ranks) else None

    return wait_for(at_work, lambda: f"steps in flight; last seen: {states[-1]}", every_s=0.5)


def change_refused(config: RunConfig, where: tuple[str, ...], capsys) -> int:
    """The first step that can change, as the refusal of an earlier one says."""
    assert change.main([str(config.folder), "--at", "2", "routes.local_edit.weight=9", *where]) == 2
    refusal = re.search(r"--at 2: step 2 cannot change: .* the first that can is (\d+)", capsys.readouterr().err)
    assert refusal is not None
    return int(refusal[1])
