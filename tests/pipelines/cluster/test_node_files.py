"""A dry run on a cluster asks the nodes themselves; two raylets, of which the second resolves relative paths elsewhere."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from ray.cluster_utils import Cluster

from pipelines.cluster.fingerprint import fingerprint
from pipelines.cluster.node_files import _problems

ON_THE_SECOND = ("rollout.node_labels.role=second", "learner.node_labels.role=first", "encoder.node_labels.role=first")


@dataclass(frozen=True)
class Two:
    """A cluster of two nodes with a GPU each, as Ray counts them, and the folders in which their processes work."""

    address: str
    first: Path
    second: Path

    def dry_run(self, config: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
        """By a driver that works where the first node does."""
        command = [sys.executable, "-m", "pipelines.distill", str(config), *overrides, "--dry-run", "--address", self.address]
        return subprocess.run(
            command, cwd=self.first, env=os.environ | {"COLUMNS": "300"}, capture_output=True, text=True, timeout=300
        )


@pytest.fixture
def two(tmp_path, monkeypatch) -> Iterator[Two]:
    first, second = tmp_path / "first", tmp_path / "second"
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    for folder in (first, second):
        folder.mkdir()
    monkeypatch.chdir(first)
    resources = {"num_cpus": 2, "num_gpus": 1, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={**resources, "labels": {"role": "first"}})
    monkeypatch.chdir(second)
    cluster.add_node(**resources, labels={"role": "second"})
    yield Two(cluster.address, first, second)
    cluster.shutdown()


@pytest.mark.slow
def test_the_nodes_that_will_run_a_process_are_asked_for_its_files(two, config_file, tiny_models):
    content = yaml.safe_load(config_file.read_text())
    shutil.copytree(content["model"]["path"], two.first / "base")
    content["model"]["path"] = "base"
    for expert in content["experts"].values():
        expert["node_labels"] = {"role": "first"}
    config_file.write_text(yaml.safe_dump(content))

    missing = two.dry_run(config_file, *ON_THE_SECOND)
    assert missing.returncode == 2, missing.stdout
    expected = (
        r"error: model\.path: node [\d.]+ \(.*\): base is not there; every node that runs a process must see what that reads"
    )
    assert re.fullmatch(expected, missing.stderr.splitlines()[-1])

    shutil.copytree(tiny_models.other_base, two.second / "base")
    other = two.dry_run(config_file, *ON_THE_SECOND)
    assert other.returncode == 2
    assert "): base has other content than here; every node" in other.stderr

    on_the_first = two.dry_run(config_file, *ON_THE_SECOND, "rollout.node_labels.role=first")
    assert on_the_first.returncode == 0, on_the_first.stderr
    assert "1 node can read what the run's processes will read there" in on_the_first.stdout

    shutil.rmtree(two.second / "base")
    (two.second / "base").symlink_to(two.first / "base")
    gpus = ("learner.num_gpus=1", "rollout.num_gpus=0.5", "rollout.workers=1", "encoder.num_gpus=0.25")
    seen = two.dry_run(config_file, *ON_THE_SECOND, *gpus[1:3])
    assert seen.returncode == 0, seen.stderr
    assert "2 nodes can read what the run's processes will read there" in seen.stdout
    assert "needs 0.5 GPUs such as h100; GB of the room of each process: rollout 0.0 of 39.4\n" in seen.stdout
    large = two.dry_run(config_file, *ON_THE_SECOND, *gpus, "learner.gpu=toy=1.27")
    said = "error: rollout doesn't fit: it needs 0.6 GB with CUDA's own, its share of a toy=1.27 has 0.6; set a smaller "
    assert said in large.stderr

    nowhere = two.dry_run(config_file, "encoder.node_labels.role=third")
    assert nowhere.returncode == 2
    assert "error: encoder: no node with the labels {'role': 'third'} has 0.1 CPU and 0 GPU\n" in nowhere.stderr
    assert list(two.first.iterdir()) == [two.first / "base"], "a dry run leaves nothing"


def test_a_node_says_what_is_wrong_with_each_path(tmp_path):
    (tmp_path / "same").write_bytes(b"1")
    (tmp_path / "other").write_bytes(b"2")
    names = {"a": "same", "b": "other", "c": "none", "d": "same/below"}
    prints = {key: (tmp_path / name, fingerprint(tmp_path / "same")) for key, name in names.items()}
    marker = tmp_path / "marker"
    marker.touch()
    assert _problems(prints, marker) == {
        "b": f"{tmp_path / 'other'} has other content than here",
        "c": f"{tmp_path / 'none'} is not there",
        "d": f"{tmp_path / 'same/below'} is not there",
    }
    away = tmp_path / "away"
    assert _problems({}, away / "marker") == {"run.dir": f"{away} cannot be written (No such file or directory)"}
    away.mkdir()
    assert _problems({}, away / "marker") == {"run.dir": f"{away} is not the folder that it is here"}
    assert list(away.iterdir()) == []
