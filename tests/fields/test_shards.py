"""Shards are read as they were written, and a folder that says something else executes nothing."""

import io
import os
import pickle
from pathlib import Path

import pytest
import torch

from fields import shards
from fields.shard_reader import TensorPlanner


@pytest.fixture
def written(tmp_path: Path) -> Path:
    shards.write(
        tmp_path / "shards", {"student/a": torch.arange(6.0).reshape(2, 3), "ema/a": torch.ones(2, dtype=torch.bfloat16)}
    )
    return tmp_path / "shards"


def test_tensors_come_back(written):
    assert torch.equal(shards.read(written, "student/")["a"], torch.arange(6.0).reshape(2, 3))
    assert shards.read(written, "ema/")["a"].dtype == torch.bfloat16


class _Executes:
    def __init__(self, flag: Path):
        self.flag = flag

    def __reduce__(self):
        return os.system, (f"touch {self.flag}",)


def test_code_in_a_description_is_not_executed(written, tmp_path):
    (written / ".metadata").write_bytes(pickle.dumps(_Executes(tmp_path / "executed")))
    with pytest.raises(ValueError, match=r"\.metadata is no description of shards: it names posix.system"):
        shards.read(written, "student/")
    assert not (tmp_path / "executed").exists()


def test_what_is_stored_as_bytes_is_never_unpickled(tmp_path):
    """torch itself would: `DefaultLoadPlanner.load_bytes` loads whatever it is."""
    from torch.distributed.checkpoint.metadata import MetadataIndex
    from torch.distributed.checkpoint.planner import LoadItemType, ReadItem

    index = MetadataIndex("student/a")
    item = ReadItem(LoadItemType.BYTE_IO, index, torch.Size([0]), index, torch.Size([0]), torch.Size([1]))
    with pytest.raises(ValueError, match="student/a is no tensor"):
        TensorPlanner().load_bytes(item, io.BytesIO(pickle.dumps(_Executes(tmp_path / "executed"))))
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("content", [b"", b"garbage", pickle.dumps({"a": 1}), pickle.dumps(None)])
def test_what_is_no_description_is_said(written, content):
    (written / ".metadata").write_bytes(content)
    with pytest.raises(ValueError, match="is no description of shards"):
        shards.read(written, "student/")


def test_a_shard_of_another_folder_is_not_read(written):
    content = (written / ".metadata").read_bytes()
    name = next(path.name for path in written.iterdir() if path.name.endswith(".distcp")).encode()
    elsewhere = b"../x" + name[4:]
    assert content.replace(name, elsewhere) != content
    (written / ".metadata").write_bytes(content.replace(name, elsewhere))
    with pytest.raises(ValueError, match="is no file of the folder"):
        shards.read(written, "student/")
