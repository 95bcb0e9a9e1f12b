"""A supervised driver is started again where its process ends without having finished."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from waiting import LIMIT_S, wait_for

from actors.journal import METRICS, rows
from pipelines.distill import main
from pipelines.run import supervisor
from pipelines.run.supervisor import STOPPED, supervise
from pipelines.run_folder.find import newest_step
from runs import reference, trained_ids

DRIVER = """
import os, pathlib, signal, sys
folder = pathlib.Path(sys.argv[1])
ends = (folder / "ends").read_text().split()
number = len(list(folder.glob("started-*")))
(folder / f"started-{number}").write_text(" ".join(sys.argv[2:]))
end, _, saves = ends[min(number, len(ends) - 1)].partition("+")
if saves:
    checkpoint = folder / "checkpoints" / f"step-{int(saves):06}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.json").touch()
if end == "waits":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    (folder / "waits").touch()
    signal.pause()
os.kill(os.getpid(), int(end[1:])) if end.startswith("-") else sys.exit(int(end))
"""


@pytest.fixture
def ending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], tuple[int, int, list[str]]]:
    """Supervises a driver that ends in the given ways, with its checkpoints after a plus; status, starts, what was said."""
    monkeypatch.setattr(supervisor, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(supervisor, "_LONGEST_PAUSE_S", 0.02)
    said: list[str] = []

    def run(ends: str) -> tuple[int, int, list[str]]:
        (tmp_path / "ends").write_text(ends)
        command = [sys.executable, "-c", DRIVER, str(tmp_path)]
        status = supervise(command, ["again"], ["resuming"], lambda: newest_step(tmp_path), said.append)
        starts = sorted(tmp_path.glob("started-*"))
        expected, saved = [], False
        for end in (ends.split() + ends.split()[-1:] * len(starts))[: len(starts)]:
            expected.append(("again resuming" if saved else "again") if expected else "")
            saved |= "+" in end
        assert [path.read_text() for path in starts] == expected, "what resumes nothing is repeated until something is saved"
        return status, len(starts), said

    return run


@pytest.mark.parametrize(
    ("ends", "status", "starts"),
    [
        ("0", 0, 1),
        ("2", 2, 1),  # what the user got wrong
        (f"{STOPPED}", STOPPED, 1),
        ("-9 0", 0, 2),
        ("1 -11 2 0", 0, 4),  # a second driver that finds no cluster is not the user's fault
        ("-9", 137, 4),
        ("-9+10 -9 -9 -9+20 1 1 1 1", 1, 8),  # four starts from the beginning or from any one checkpoint
    ],
)
def test_who_is_started_again(ending, ends: str, status: int, starts: int):
    assert ending(ends)[:2] == (status, starts)


def test_what_happened_is_said(ending):
    assert ending("-9+10 1 0")[2] == [
        "warning: the driver was ended by SIGKILL; it is started again, to continue from step 10",
        "warning: the driver ended with status 1; it is started again, to continue from step 10",
    ]


def test_giving_up_is_said(ending):
    assert ending("1")[2][-1] == "the driver ended 4 times with no new checkpoint in between; it is not started again"


def test_a_request_to_stop_is_passed_on(ending, tmp_path: Path):
    def ask() -> None:
        wait_for((tmp_path / "waits").exists, "the driver")
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    asker = threading.Thread(target=ask)
    asker.start()
    assert ending("waits")[:2] == (143, 1)
    asker.join()
    assert signal.getsignal(signal.SIGTERM) is before


def test_bad_input_is_said_once(config_file: Path, capsys: pytest.CaptureFixture[str]):
    assert main([str(config_file), "--supervise", "learner.lag=-1"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "error: learner.lag: Input should be greater than or equal to 0 (got -1)"


@pytest.mark.slow
def test_a_killed_driver_is_started_again_and_ends_with_the_same_student(config_file: Path, make_config):
    settings = "run.steps=24", "learner.lag=1", "rollout.workers=1"
    config = make_config(*settings, "run.name=killed")
    command = [sys.executable, "-m", "pipelines.distill", str(config_file), *settings, "run.name=killed", "--supervise"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    wait_for(lambda: newest_step(config.folder) and len(rows(config.folder / METRICS)) > 5, "six steps and a checkpoint")
    (driver,) = subprocess.check_output(["pgrep", "-P", str(process.pid)], text=True).split()
    os.kill(int(driver), signal.SIGKILL)
    said, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, said
    assert "warning: the driver was ended by SIGKILL; it is started again, to continue from step " in said
    expected = reference(make_config(*settings, "run.name=reference"))
    assert f'"weights_sha256": "{expected.weights.checksum}"' in (config.folder / "summary.json").read_text()
    assert sorted(trained_ids(config.folder)) == list(range(24 * 12))
