"""The screen about a run: from its files alone, and from a cluster while it trains."""

import io
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from actors.journal import METRICS
from pipelines import status
from pipelines.config.run import RunConfig
from pipelines.run_folder import find
from pipelines.run_folder.outcome import write_config
from pipelines.run_folder.state import read_run
from pipelines.watch.cluster_state import ClusterState, Metrics, RankState, ServiceState
from pipelines.watch.screen import duration, screen

NOW = 1_000_000.0
PROCESSES = ClusterState(
    learner=True,
    workers=1,
    workers_wanted=2,
    depth=2,
    repeated=3,
    truncated=7,
    ranks=[RankState(step=4, waiting=0.125, memory_bytes=2e9), RankState(step=4, waiting=0.25, memory_bytes=1.5e9)],
    services={"local_edit": ServiceState(running=1, wanted=2, in_work=4, queued=5, repeated=6)},
)


@pytest.fixture
def run(make_config) -> RunConfig:
    """A run of 8 steps that recorded 4, the last of them 10 s before NOW."""
    config = make_config("run.name=watched", "learner.lag=1")
    write_config(config)
    record(config, steps=4)
    return config


def record(config: RunConfig, steps: int, written: float = NOW - 10, waited: float = 0.0) -> None:
    """Step s took 2 s for 12 samples; its loss is s for local_edit, and 1 for global_edit in even steps."""
    rows = [
        {
            "step": step,
            "route_loss": {"local_edit": float(step), **({"global_edit": 1.0} if step % 2 == 0 else {})},
            "gradient_norm": 0.5 if step == 0 else 2.0,
            "staleness": min(step, 1),
            "samples": 12,
            "seconds": 2.0 * (step + 1),
            "wait_seconds": waited,
        }
        for step in range(steps)
    ]
    path = config.folder / METRICS
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 9')  # the last line is being written
    os.utime(path, (written, written))


def shown(config: RunConfig, cluster: ClusterState | None, now: float = NOW) -> str:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(screen(read_run(config.folder, now), cluster))
    return console.export_text()


def test_numbers_come_from_the_last_rows(run):
    state = read_run(run.folder, NOW)
    assert (state.step, state.staleness, state.quiet_s) == (4, 1, 10.0)
    assert state.route_loss == {"local_edit": 1.5, "global_edit": 1.0}
    assert (state.samples_per_second, state.seconds_per_step, state.eta_s) == (6.0, 2.0, 8.0)
    assert state.clipped == 0.75
    assert (state.checkpoint, state.finished) == (None, False)


def test_a_clock_that_was_set_back_makes_nothing_negative(run):
    assert read_run(run.folder, NOW - 7200).quiet_s == 0.0


def test_only_recent_steps_count_in_a_long_file(run):
    record(run, steps=20_000)
    state = read_run(run.folder, NOW)
    assert state.step == 20_000
    assert state.route_loss["local_edit"] == pytest.approx(20_000 - 1 - 49 / 2)


def test_a_run_before_its_first_step(run):
    (run.folder / METRICS).unlink()
    assert "watched  stopped  step 0 of 8 (0 %)" in shown(run, None)
    assert "watched  starting" in shown(run, PROCESSES)


def test_the_newest_checkpoint_is_named(run):
    for step in (1, 3):
        folder = run.folder / "checkpoints" / f"step-{step:06d}"
        folder.mkdir(parents=True)
        (folder / "state.json").write_text("{}")
    (run.folder / "checkpoints" / ".step-000004.17").mkdir()
    assert read_run(run.folder, NOW).checkpoint == 3
    assert "the same command continues it from step 3" in shown(run, None, NOW + 1000)


def test_a_screen_of_a_running_run(run):
    text = shown(run, PROCESSES)
    assert "watched  running  step 4 of 8 (50 %)  6.0 samples/s  ETA 8 s" in text
    assert "checkpoint none yet  staleness 1  last step 10 s ago  1 rollout workers  2 steps ahead" in text
    assert ["1", "4", "25", "%", "1.5", "GB"] in [line.split() for line in text.splitlines()]
    assert ["local_edit", "1", "of", "2", "4", "5"] in [line.split() for line in text.splitlines()]
    assert [line for line in text.splitlines() if line.startswith("warning: ")] == [
        "warning: 1 of 2 rollout workers live",
        "warning: 3 rollouts were lost and made again",
        "warning: 7 prompts are longer than the encoder reads, and were cut",
        "warning: local_edit: 1 of 2 replicas run",
        "warning: local_edit: 6 calls were lost and made again",
    ]


def test_a_learner_that_waits_is_said_to_and_who_is_short(run, make_config):
    """Each of its steps takes 2 s; the replica of local_edit has nine calls."""

    def said(config: RunConfig, cluster: ClusterState) -> str:
        return " ".join(shown(config, cluster).split())

    record(run, steps=4, waited=1.8)
    waits = "warning: the learner waits 90 % of its time for targets;"
    assert f"{waits} calls pile up at local_edit, whose replicas are few (pipelines.scale)" in said(run, PROCESSES)
    one_call = ServiceState(running=1, wanted=1, in_work=1, queued=0, repeated=0)
    workers = f"{waits} calls pile up at no service, so rollout workers are few (pipelines.scale watched rollout=N)"
    assert workers in said(run, replace(PROCESSES, services={"local_edit": one_call}))
    assert workers in said(run, replace(PROCESSES, services={}))
    strict = make_config("run.name=strict", "learner.lag=0")
    write_config(strict)
    record(strict, steps=4, waited=1.8)
    assert f"{waits} with learner.lag: 0 each step waits for its own rollouts" in said(strict, PROCESSES)
    record(run, steps=4, waited=0.3)
    assert "the learner waits" not in said(run, PROCESSES)


def test_a_stalled_and_a_stopped_run_are_told_apart(run):
    assert "warning: no step for 1 h 0 min" in shown(run, PROCESSES, NOW + 3590)
    stopped = shown(run, None, NOW + 3590)
    assert "watched  stopped" in stopped
    assert "ETA" not in stopped
    assert "warning: nothing trains this run; the same command continues it from the start" in stopped


def test_a_finished_run_needs_no_cluster(run, capsys, monkeypatch):
    record(run, steps=8)
    (run.folder / "summary.json").write_text(json.dumps({"steps": 8}))
    text = shown(run, None, NOW + 1e6)
    assert "watched  finished  step 8 of 8 (100 %)" in text
    assert "warning: nothing" not in text
    monkeypatch.setattr("pipelines.cluster.connect.join", lambda *_, **__: pytest.fail("it looked for one"))
    assert status.main([str(run.folder)]) == 0
    assert "finished" in capsys.readouterr().out


def test_a_run_that_trains_is_looked_for_on_its_own_cluster(run, monkeypatch):
    asked = []
    monkeypatch.setattr("pipelines.cluster.connect.join", lambda address, say, run: asked.append((address, run)))
    assert status.main([str(run.folder), "--address", "here:1"]) == 0
    assert asked == [("here:1", run.folder)]


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59.4, "59 s"), (185, "3 min 5 s"), (7800, "2 h 10 min"), (273_600, "3 d 4 h")]
)
def test_durations_are_said_in_two_parts(seconds, words):
    assert duration(seconds) == words


def test_a_metric_is_summed_over_the_processes_with_its_labels():
    page = "\n".join(
        [
            "# HELP calls_total calls made again",
            "# TYPE calls_total counter",
            r'calls_total{run="a \"quoted\", run",service="one"} 2.0',
            r'calls_total{run="a \"quoted\", run",service="two"} 3.0',
            'calls_total{run="another",service="one"} 10.0',
            "# TYPE depth gauge",
            "depth 4.0",
            "",
        ]
    )
    metrics = Metrics.parsed([page, 'calls_total{run="another",service="two"} 20.0\n'])
    assert metrics.total("calls_total", run='a "quoted", run') == 5
    assert metrics.total("calls_total", run="another") == 30
    assert metrics.total("calls_total", service="one") == 12
    assert metrics.total("depth") == 4
    assert metrics.total("depth", run="another") == metrics.total("absent") == 0


def test_what_cannot_be_shown_is_refused(run, capsys, monkeypatch):
    monkeypatch.setattr(find, "RUNS", run.folder.parent)
    assert find.find_run(None) == find.find_run("watched") == find.find_run(str(run.folder)) == run.folder
    assert status.main(["nobody"]) == 2
    assert capsys.readouterr().err == f"error: no run 'nobody'; {run.folder.parent} has: watched\n"
    assert status.main(["watched", "--address", "127.0.0.1:1"]) == 2
    assert "no Ray cluster answers at '127.0.0.1:1'" in capsys.readouterr().err
    monkeypatch.setattr(find, "RUNS", Path("nowhere"))
    assert status.main([]) == 2
    assert capsys.readouterr().err == "error: no run ''; nowhere has: none\n"
