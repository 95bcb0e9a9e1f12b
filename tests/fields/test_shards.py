"""Shards are read as they were written, and a folder that says something else executes nothing."""

import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributed.checkpoint.metadata import Metadata

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


def test_a_description_changes_no_class(written):
    """A pickle may ask for attributes of whatever it has named, and then an allowed class is another one for everybody."""
    changes = b"\x80\x02ctorch.distributed.checkpoint.metadata\nMetadata\n(N}(X\x07\x00\x00\x00changedK\x01utb."
    (written / ".metadata").write_bytes(changes)
    with pytest.raises(ValueError, match=r"it changes <class '.*\.Metadata'>"):
        shards.read(written, "student/")
    assert not hasattr(Metadata, "changed")


@pytest.mark.parametrize("content", [b"", b"garbage", pickle.dumps({"a": 1}), pickle.dumps(None)])
def test_what_is_no_description_is_said(written, content):
    (written / ".metadata").write_bytes(content)
    with pytest.raises(ValueError, match="is no description of shards"):
        shards.read(written, "student/")


def test_random_damage_is_an_error_of_one_kind(written):
    content, rng = (written / ".metadata").read_bytes(), np.random.default_rng(1)
    read = 0
    for _ in range(400):
        damaged = bytearray(content)
        for place in rng.integers(0, len(damaged), rng.integers(1, 5)):
            damaged[place] = rng.integers(256)
        (written / ".metadata").write_bytes(damaged[: rng.integers(1, 2 * len(damaged))])
        try:
            shards.read(written, "student/")
            read += 1
        except ValueError:
            pass
    assert read < 40, "and hardly any goes unseen: the sums of a checkpoint see them all"


def test_a_shard_of_another_folder_is_not_read(written):
    content = (written / ".metadata").read_bytes()
    name = next(path.name for path in written.iterdir() if path.name.endswith(".distcp")).encode()
    elsewhere = b"../x" + name[4:]
    assert content.replace(name, elsewhere) != content
    (written / ".metadata").write_bytes(content.replace(name, elsewhere))
    with pytest.raises(ValueError, match="is no file of the folder"):
        shards.read(written, "student/")
