"""Breaking a run on purpose: which faults, and that the command's verdict is one."""

from collections import Counter
from pathlib import Path

import pytest

from pipelines.chaos import main
from pipelines.run.chaos import planned_faults
from pipelines.run.chaos_kinds import kinds

KINDS = kinds(nodes=False, ranks=False, mirror=True)


def test_the_seed_decides_what_happens_and_when():
    faults = planned_faults(3, 2 * len(KINDS) + 1, 200, KINDS)
    assert faults == planned_faults(3, 2 * len(KINDS) + 1, 200, KINDS)
    assert faults != planned_faults(4, 2 * len(KINDS) + 1, 200, KINDS)
    assert sorted(Counter(fault.kind for fault in faults).values()) == [2] * (len(KINDS) - 1) + [3]
    steps = [fault.step for fault in faults]
    assert steps == sorted(steps)
    assert 0 <= steps[0] <= steps[-1] < 150, "none when the run is over"


@pytest.mark.parametrize("faults", ["0", "9"])
def test_more_faults_than_steps_are_refused(config_file: Path, capsys: pytest.CaptureFixture[str], faults: str):
    assert main([str(config_file), "--faults", faults]) == 2
    assert capsys.readouterr().err == f"error: --faults {faults}: allowed are 1 to run.steps, which is 8\n"


def test_a_run_of_forty_steps_survives_a_kill_of_every_party(config_file: Path, capsys: pytest.CaptureFixture[str]):
    settings = "run.steps=40", "learner.lag=1", "rollout.workers=1", "checkpoint.every=5"
    assert main([str(config_file), *settings, "--faults", "4", "--seed", "4"]) == 0
    shown = capsys.readouterr().out
    assert all(f"{party} is killed" in shown for party in ("worker", "an expert's replica", "encoder's replica", "learner"))
    assert "every sample once: True" in shown


@pytest.mark.slow  # each kind of fault once
@pytest.mark.parametrize("nodes", [False, True])
def test_a_run_survives_every_kind_of_fault(config_file: Path, capsys: pytest.CaptureFixture[str], nodes: bool):
    mirror = config_file.parent / "mirror"
    settings = "run.steps=60", "learner.lag=1", "rollout.workers=1", "checkpoint.every=5", f"checkpoint.mirror={mirror}"
    possible = kinds(nodes=nodes, ranks=False, mirror=True)
    asked = [*settings, "--faults", str(len(possible)), "--seed", "1", *(["--nodes"] if nodes else [])]
    assert main([str(config_file), *asked]) == 0
    shown = capsys.readouterr().out
    assert all(kind.name in shown for kind in possible)
    assert "every sample once: True" in shown
