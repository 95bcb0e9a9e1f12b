"""A disk that is full or read-only for a while costs time alone."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small_disk import SmallDisk, small_disk

from actors import storage
from actors.journal import METRICS, Journal, rows
from actors.storage import once_writable
from fields import shards
from fields.storage_errors import is_outage
from fields.update import Update

UPDATE = Update(loss=0.5, route_loss={"a": 0.5}, route_samples={"a": 2}, route_target_norm={"a": 1.0}, gradient_norm=0.1)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", megabytes=1) as mounted:
        yield mounted


def _save_safetensors(path: Path) -> None:
    save_file({"a": torch.zeros(1_000_000)}, path / "a.safetensors")


def _save_shards(path: Path) -> None:
    shards.write(path / "shards", {"a": torch.zeros(1_000_000)})


def _write(path: Path) -> None:
    (path / "a").write_bytes(b"\0" * 4_000_000)


@pytest.mark.parametrize("save", [_save_safetensors, _save_shards, _write])
def test_a_full_disk_is_told_from_a_wrong_call_whoever_writes(disk, save):
    with pytest.raises(Exception) as full:  # noqa: PT011  # each writer has an error of its own
        save(disk.path)
    assert is_outage(full.value)
    disk_file = disk.path.parent / "a file"
    disk_file.touch()
    with pytest.raises(Exception) as wrong:  # noqa: PT011
        save(disk_file / "nowhere")
    assert not is_outage(wrong.value)


def test_a_row_is_written_whole_or_not_at_all(disk):
    journal = Journal(disk.path, 0, ())
    journal.record(0, UPDATE, 0, list(range(500)), 1.0)
    disk.fill(but=4096)
    with pytest.raises(OSError, match="No space left"):
        journal.record(1, UPDATE, 1, list(range(20_000)), 2.0)  # its beginning would find room
    disk.empty()
    journal.record(1, UPDATE, 1, [7], 3.0)
    assert [(row["step"], len(row["sample_ids"])) for row in rows(disk.path / METRICS)] == [(0, 500), (1, 1)]


def test_a_logger_that_finds_no_room_holds_nothing_up_and_goes_on_later(disk):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    journal = Journal(disk.path, 0, ["tensorboard"])
    disk.fill(but=200_000)
    for step in range(400):
        journal.record(step, UPDATE, step, [step], 1.0)
    journal.close()
    assert len(rows(disk.path / METRICS)) == 400
    board = EventAccumulator(str(disk.path / "tensorboard"))
    board.Reload()
    steps = [event.step for event in board.Scalars("gradient_norm")]
    assert steps[:100] == list(range(100))


def test_a_write_waits_for_room_and_says_so(disk, monkeypatch):
    monkeypatch.setattr(storage, "_FIRST_PAUSE_S", 0.01)
    said: list[str] = []

    async def run() -> str:
        async def write() -> str:
            if len(tried) == 3:
                disk.empty()
            tried.append(1)
            save_file({"a": torch.zeros(50_000)}, disk.path / "a.safetensors")
            return "written"

        tried: list[int] = []
        disk.fill()
        written = await once_writable(write, said.append)
        assert len(tried) == 4
        return written

    assert asyncio.run(run()) == "written"
    begins, ends = said
    assert begins.startswith("the run's folder cannot be written (SafetensorError: ")
    assert "No space left on device" in begins
    assert ends == "the run's folder can be written again, after 0 s"


def test_what_is_no_outage_is_raised_at_once_and_nobody_waits_who_gives_up(disk):
    async def missing() -> None:
        (disk.path / "nowhere" / "a").write_text("")

    async def full() -> None:
        (disk.path / "a").write_bytes(b"\0" * 2_000_000)

    with pytest.raises(FileNotFoundError):
        asyncio.run(once_writable(missing, pytest.fail))
    with pytest.raises(OSError, match="No space left"):
        asyncio.run(once_writable(full, pytest.fail, lambda: True))


def test_a_disk_that_is_read_only(disk):
    journal = Journal(disk.path, 0, ())
    disk.lock("ro")
    with pytest.raises(OSError, match="Read-only") as refused:
        journal.record(0, UPDATE, 0, [1], 1.0)
    assert is_outage(refused.value)
    disk.lock("rw")
    journal.record(0, UPDATE, 0, [1], 1.0)
    (line,) = (disk.path / METRICS).read_text().splitlines()
    assert json.loads(line)["step"] == 0
