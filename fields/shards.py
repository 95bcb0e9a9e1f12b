"""Tensors that many processes share, in the format of torch's distributed checkpoints: each writes the shards that it has, and
any number of processes reads them, each what it needs. A folder says what is whole in it; files of processes are its parts.

Importing torch.distributed.checkpoint takes a second, which processes that share nothing don't pay.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fields.carriers import Tensors
from fields.shown import one_line
from fields.tensors import Shapes, check_shapes, shapes

if TYPE_CHECKING:
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata


def write(folder: Path, tensors: Tensors) -> None:
    """Write what the processes of the group share; all call this, and when it returns all have written.

    Raises:
        OSError: in all of them, what any met.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.state_dict_saver import save

    try:
        save(dict(tensors), checkpoint_id=folder)
    except CheckpointException as error:  # no Exception, so that nobody who meets it expects it
        raise OSError("; ".join(f"rank {rank}: {raised}" for rank, (raised, _) in error.failures.items())) from error


def read_into(folder: Path, tensors: Tensors) -> None:
    """Fill tensors with what a folder has under their names: whole ones, or this process's shards of them.

    Raises:
        ValueError: if the folder lacks a name, or has another shape under it; lists them. If it is damaged.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.state_dict_loader import load

    from fields.shard_reader import ShardReader, TensorPlanner

    found = _shapes(_stored(folder))
    check_shapes({name: shape for name, shape in found.items() if name in tensors}, shapes(tensors), str(folder))
    # Alone: each process knows what it lacks, and they may lack different tensors.
    try:
        load(dict(tensors), storage_reader=ShardReader(folder), planner=TensorPlanner(), no_dist=True)
    except CheckpointException as error:  # no Exception, as above
        raise ValueError(f"{folder} is damaged: {one_line(next(iter(error.failures.values()))[0])}") from error


def read(folder: Path, prefix: str) -> Tensors:
    """The whole tensors whose names begin with a prefix, without it, on the host."""
    stored = {name: tensor for name, tensor in _stored(folder).items() if name.startswith(prefix)}
    tensors = {name: torch.empty(tensor.size, dtype=tensor.properties.dtype) for name, tensor in stored.items()}
    read_into(folder, tensors)
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def _stored(folder: Path) -> "Mapping[str, TensorStorageMetadata]":
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    from fields.shard_reader import ShardReader

    entries = ShardReader(folder).read_metadata().state_dict_metadata.items()
    return {name: entry for name, entry in entries if type(entry) is TensorStorageMetadata}


def _shapes(stored: "Mapping[str, TensorStorageMetadata]") -> Shapes:
    return {name: tuple(tensor.size) for name, tensor in stored.items()}
