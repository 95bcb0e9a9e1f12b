"""Checkpoints in a real S3 server, which may also refuse, stall or hold half a file."""

import asyncio
import hashlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from local_server import Quiet, served

from actors import checkpoints
from actors.checkpoints import Checkpoints
from actors.mirror import Mirror
from fields import checkpoint
from fields.keeping import Keeping


def uri(server: str) -> str:
    return f"s3://runs/ours?endpoint_override={server}&scheme=http"


@pytest.fixture
def mirror(s3, s3_server: str) -> Mirror:
    return Mirror(uri(s3_server), "tiny")


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[int], Path]:
    """Writes what a checkpoint is made of: files, and a state with their sums."""

    def save(step: int) -> Path:
        folder = checkpoint.folder_of(tmp_path / "run" / "checkpoints", step)
        (folder / "published").mkdir(parents=True)
        files = {"adapter_model.safetensors": b"a" * (step + 100), f"published/version-{step}.safetensors": b"v" * 10}
        for name, content in files.items():
            (folder / name).write_bytes(content)
        sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        state = {"files": sums, "step": step, "trained": [], "checksums": {}, "recipe": {}}
        (folder / "state.json").write_text(json.dumps(state))
        (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 0}\n' * step)
        return folder

    return save


def test_a_checkpoint_comes_back_as_it_was_with_its_record(mirror, saved, tmp_path: Path):
    mirror.require_writable()
    folder = saved(4)
    mirror.store(folder)
    assert mirror.steps() == [4]
    restored = mirror.restore(tmp_path / "elsewhere", above=0)
    assert restored == tmp_path / "elsewhere" / "checkpoints" / "step-000004"
    names = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert sorted(path.relative_to(restored) for path in restored.rglob("*") if path.is_file()) == names
    assert all((restored / name).read_bytes() == (folder / name).read_bytes() for name in names)
    assert (tmp_path / "elsewhere" / "metrics.jsonl").read_text() == '{"step": 0}\n' * 4
    assert mirror.restore(tmp_path / "elsewhere", above=4) is None, "the run has it already"


def test_the_state_comes_last(mirror, saved, s3):
    folder = saved(4)
    (folder / "published" / "version-4.safetensors").chmod(0)
    (folder / "zero").symlink_to(folder / "published")
    (folder / "state.json").unlink()
    with pytest.raises(OSError, match=r"state\.json"):
        mirror.store(folder)
    assert mirror.steps() == []
    record = s3.get_object(Bucket="runs", Key="ours/tiny/metrics.jsonl")["Body"].read()
    assert record.count(b"\n") == 4, "no older than the checkpoint, whenever the copy is cut"
    keys = [found["Key"] for found in s3.list_objects_v2(Bucket="runs")["Contents"]]
    assert any(key.endswith("step-000004/adapter_model.safetensors") for key in keys)


@pytest.mark.parametrize("damage", ["cut", "gone", "half a state"])
def test_a_damaged_copy_is_passed_over(mirror, saved, s3, tmp_path: Path, damage: str):
    mirror.store(saved(4))
    mirror.store(saved(8))
    newest = "ours/tiny/checkpoints/step-000008"
    if damage == "cut":
        s3.put_object(Bucket="runs", Key=f"{newest}/adapter_model.safetensors", Body=b"aaa")
    elif damage == "gone":
        s3.delete_object(Bucket="runs", Key=f"{newest}/adapter_model.safetensors")
    else:
        s3.put_object(Bucket="runs", Key=f"{newest}/state.json", Body=b'{"files": {')
    there = tmp_path / "elsewhere"
    assert mirror.restore(there, above=0) == there / "checkpoints" / "step-000004"
    assert [path.name for path in (there / "checkpoints").iterdir()] == ["step-000004"]
    assert (there / "metrics.jsonl").read_text().count("\n") == 8, "more than it needs: the journal drops later rows"


def test_a_longer_record_stays(mirror, saved, tmp_path: Path):
    mirror.store(saved(4))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "metrics.jsonl").write_text('{"step": 1}\n' * 6)
    mirror.restore(tmp_path / "elsewhere", above=0)
    assert (tmp_path / "elsewhere" / "metrics.jsonl").read_text() == '{"step": 1}\n' * 6


def test_old_checkpoints_and_those_of_steps_that_come_again_are_deleted(mirror, saved):
    for step in (4, 8, 12, 16):
        mirror.store(saved(step))
    mirror.prune(Keeping(3))
    assert mirror.steps() == [16, 12, 8]
    mirror.discard_after(8)
    assert mirror.steps() == [8]


def test_a_folder_may_be_a_mirror(saved, tmp_path: Path):
    mirror = Mirror(str(tmp_path / "disk"), "tiny")
    mirror.require_writable()
    mirror.store(saved(4))
    assert mirror.restore(tmp_path / "elsewhere", above=0) is not None
    assert mirror.steps() == [4]


def test_who_cannot_write_is_told_before(s3, s3_server: str):
    with pytest.raises(OSError, match="missing"):
        Mirror(f"s3://missing/ours?endpoint_override={s3_server}&scheme=http", "tiny").require_writable()
    with pytest.raises(ValueError, match="ftp"):
        Mirror("ftp://somewhere/ours", "tiny")


async def _once(write):
    await write()


class _Refusal(Quiet):
    """Answers that it is too busy, whatever it is asked."""

    def _refuse(self) -> None:
        self.send_response(503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _refuse


@pytest.fixture
def refusing() -> Iterator[str]:
    """HOST:PORT of a server that refuses."""
    with served(_Refusal) as server:
        yield f"127.0.0.1:{server.server_port}"


@pytest.fixture
def stalling() -> Iterator[str]:
    """HOST:PORT where calls are taken and never answered."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(100)
        yield "{}:{}".format(*listener.getsockname())


class _Student:
    """Saves by writing a checkpoint's files."""

    def __init__(self, save: Callable[[int], Path]):
        self._save = save

    async def save(self, folder: Path, step: int, recipe: object) -> None:
        self._save(step)


@pytest.mark.parametrize("storage", ["refusing", pytest.param("stalling", marks=pytest.mark.slow)])
def test_training_goes_on_while_the_storage_fails(cluster, request, s3, saved, tmp_path: Path, monkeypatch, storage: str):
    monkeypatch.setattr(checkpoints, "_COPY_S", 5.0)
    address = request.getfixturevalue(storage)
    warnings: list[str] = []

    async def run() -> None:
        kept = Checkpoints(tmp_path / "run", Keeping(2), Mirror(uri(address), "tiny"), "tiny", warnings.append, _once)
        for step in (4, 8, 12):
            await kept.save(_Student(saved), step, {})  # pyright: ignore[reportArgumentType]  # a student without ranks
            await kept.finish()
        assert await kept.newest(above=0) == checkpoint.folder_of(tmp_path / "run" / "checkpoints", 12)

    asyncio.run(run())
    assert [warning.split(" is not in checkpoint.mirror: ")[0] for warning in warnings] == [
        f"the checkpoint after step {step}" for step in (4, 8, 12)
    ]


def test_training_never_waits_for_a_copy_and_the_newest_waits_for_the_one_on_its_way(
    cluster, mirror, saved, tmp_path: Path, monkeypatch
):
    began: list[int] = []
    first, go_on = threading.Event(), threading.Event()
    store = mirror.store

    def slowly(path: Path) -> None:
        began.append(checkpoint.steps_of(path))
        first.set()
        assert go_on.wait(600)
        store(path)

    monkeypatch.setattr(mirror, "store", slowly)
    here = tmp_path / "run" / "checkpoints"

    async def run() -> None:
        kept = Checkpoints(tmp_path / "run", Keeping(1), mirror, "tiny", pytest.fail, _once)
        for step in (4, 8, 12):
            await kept.save(_Student(saved), step, {})  # pyright: ignore[reportArgumentType]
            assert await asyncio.to_thread(first.wait, 600)
        assert began == [4]
        assert mirror.steps() == []
        assert sorted(path.name for path in here.iterdir()) == ["step-000004", "step-000008", "step-000012"], "none is deleted"
        go_on.set()
        await kept.finish()

    asyncio.run(run())
    assert began == [4, 12]
    assert mirror.steps() == [12]
    assert [path.name for path in here.iterdir()] == ["step-000012"]


def test_what_is_left_of_a_cut_copy_goes_and_strangers_stay(mirror, saved, s3):
    s3.put_object(Bucket="runs", Key="ours/tiny/checkpoints/step-000002/ema/adapter_model.safetensors", Body=b"cut")
    s3.put_object(Bucket="runs", Key="ours/tiny/checkpoints/step-000200-backup/state.json", Body=b"{}")
    for step in (4, 8):
        mirror.store(saved(step))
    mirror.prune(Keeping(2))
    keys = {
        found["Key"].split("/")[3] for found in s3.list_objects_v2(Bucket="runs")["Contents"] if "checkpoints/" in found["Key"]
    }
    assert keys - {""} == {"step-000004", "step-000008", "step-000200-backup"}
    assert mirror.steps() == [8, 4]
    mirror.clear()
    assert [found["Key"] for found in s3.list_objects_v2(Bucket="runs")["Contents"] if not found["Key"].endswith("/")] == []
