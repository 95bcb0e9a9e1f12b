"""A run whose disk is full, or read-only, for a while goes on by itself to the same student."""

import io
import threading
from pathlib import Path

import pytest
from small_disk import SmallDisk, small_disk
from waiting import wait_for

from actors.journal import METRICS, rows
from runs import distributed, reference, trained_ids

BEGINS, ENDS = "the run's folder cannot be written", "the run's folder can be written again"


@pytest.mark.parametrize("fails", ["full", pytest.param("read-only", marks=pytest.mark.slow)])
def test_the_student_is_the_same(on_standing, make_config, tmp_path: Path, fails: str):
    shown = io.StringIO()

    def disturb(disk: SmallDisk, folder: Path) -> None:
        wait_for(lambda: len(rows(folder / METRICS)) >= 3, "three steps", every_s=0.01)
        disk.fill() if fails == "full" else disk.lock("ro")
        wait_for(lambda: BEGINS in shown.getvalue(), "what the user is told")
        disk.empty() if fails == "full" else disk.lock("rw")

    with small_disk(tmp_path / "disk", megabytes=8) as disk:
        config = on_standing(f"run.dir={disk.path}", "run.name=full", "run.steps=16", "checkpoint.every=2", "rollout.workers=1")
        thread = threading.Thread(target=disturb, args=(disk, config.folder), daemon=True)
        thread.start()
        outcome = distributed(config, shown=shown)
        thread.join()
        assert outcome is not None
        assert outcome.weights.checksum == reference(make_config("run.name=reference", "run.steps=16")).weights.checksum
        assert sorted(trained_ids(config.folder)) == list(range(16 * 12))
    assert ENDS in shown.getvalue()
