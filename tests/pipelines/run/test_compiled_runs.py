"""Runs whose networks are compiled: a distributed one equals the reference, and learns what an uncompiled one does."""

import json
import subprocess
import sys

import pytest

from actors.journal import METRICS, rows
from pipelines.run_folder.outcome import write_config
from runs import distributed

SHORT = ("run.steps=4", "rollout.steps=6", "rollout.workers=2", "learner.batch_size=6", "learner.lag=1", "eval.every=0")


def reference_alone(config) -> str:
    """The reference's student, by a process whose annotations are not checked: the compiler would trace the checks too."""
    write_config(config)
    command = [sys.executable, "-m", "pipelines.distill", str(config.folder / "config.yaml"), "--reference"]
    subprocess.run(command, check=True, capture_output=True)
    return json.loads((config.folder / "summary.json").read_text())["weights_sha256"]


@pytest.mark.slow  # kernels are built in every process; that nothing is compiled again is a quick test of fields
def test_a_compiled_run_equals_the_reference_and_learns_as_an_uncompiled_one(cluster, make_config):
    regional = (*SHORT, "numerics.compile=regional")
    expected = reference_alone(make_config(*regional, "run.name=reference"))
    outcome = distributed(make_config(*regional, "run.name=compiled"))
    assert outcome is not None
    assert outcome.weights.checksum == expected
    assert reference_alone(make_config(*SHORT, "run.name=plain")) != expected, "other kernels round otherwise"
    found, wanted = (
        [row["loss"] for row in rows(make_config(f"run.name={name}").folder / METRICS)] for name in ("compiled", "plain")
    )
    assert found == pytest.approx(wanted, rel=1e-3)
