"""Draining a node: the drivers on it get SIGTERM, nobody else does."""

import os
import signal
import subprocess
import sys

import psutil

from pipelines import drain

_WAITS = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)); print(flush=True); signal.pause()"


def _process(*arguments: str) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", _WAITS, *arguments], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_drivers_are_asked_to_stop_and_waited_for(monkeypatch, capsys):
    driver = _process("-m", "pipelines.distill", "config.yaml")
    other = _process("pipelines.distill", "-m", "config.yaml")
    ours = {driver.pid, other.pid}
    everyone = drain.drivers()  # other runs of this machine are none of this test's business
    monkeypatch.setattr(drain, "drivers", lambda: [process for process in everyone if process.pid in ours])
    drain.main([])
    assert capsys.readouterr().out == "1 runs ended\n"
    assert not psutil.pid_exists(driver.pid)
    assert other.poll() is None
    os.kill(other.pid, signal.SIGKILL)
    other.wait()


def test_a_supervised_run_is_one(tmp_path, monkeypatch, capsys):
    (tmp_path / "driver.py").write_text(_WAITS)
    (tmp_path / "supervisor.py").write_text(
        "import subprocess, sys\n"
        "driver = subprocess.Popen([sys.executable, sys.argv[1], '-m', 'pipelines.distill'], stdout=subprocess.PIPE)\n"
        "driver.stdout.readline()\n" + _WAITS
    )
    command = [sys.executable, str(tmp_path / "supervisor.py"), str(tmp_path / "driver.py"), "-m", "pipelines.distill"]
    supervisor = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert supervisor.stdout is not None
    supervisor.stdout.readline()
    (driver,) = psutil.Process(supervisor.pid).children()
    ours, everyone = {driver.pid, supervisor.pid}, drain.drivers()
    monkeypatch.setattr(drain, "drivers", lambda: [process for process in everyone if process.pid in ours])
    drain.main([])
    assert capsys.readouterr().out == "1 runs ended\n"
    assert not psutil.pid_exists(supervisor.pid)
