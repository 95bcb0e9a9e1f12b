"""Reading torch's distributed checkpoints from folders that nobody vouches for.

torch writes what a folder holds, `.metadata`, as a pickle, and unpickles whatever stands there. A pickle can name any function
and call it. Here it may name the classes of such a description and nothing else. The tensors themselves torch reads as
weights only.
"""

import io
import pickle
import struct
from pathlib import Path
from typing import Any, ClassVar

from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.planner import ReadItem

from fields.shown import one_line, shown

_DESCRIBING = {
    "torch.distributed.checkpoint.metadata": {
        *("Metadata", "MetadataIndex", "StorageMeta", "TensorProperties", "TensorStorageMetadata", "BytesStorageMetadata"),
        *("ChunkStorageMetadata", "_MEM_FORMAT_ENCODING"),
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "torch": {"Size"},
    "pathlib": {"Path", "PosixPath", "PurePosixPath"},
    "collections": {"OrderedDict"},
}
_DTYPES = {"float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"}


_DAMAGE = (
    *(OSError, EOFError, MemoryError, pickle.UnpicklingError, struct.error),
    *(ValueError, TypeError, AttributeError, LookupError),
)
_InPython: Any = pickle._Unpickler  # pyright: ignore[reportPrivateUsage]  # a part of the language that has no other name


class _Unpickler(_InPython):  # the one in C sets attributes of classes, too, if a pickle asks for it
    dispatch: ClassVar[dict[int, Any]] = dict(_InPython.dispatch)

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """A class that descriptions are made of."""
        if global_name in _DESCRIBING.get(module_name, ()) or (module_name == "torch" and global_name in _DTYPES):
            return super().find_class(module_name, global_name)
        raise pickle.UnpicklingError(f"it names {module_name}.{global_name}, which is no part of one")

    def load_build(self) -> None:
        """Fills an object, and nothing else."""
        if callable(self.stack[-2]):
            raise pickle.UnpicklingError(f"it changes {self.stack[-2]}")
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build


class TensorPlanner(DefaultLoadPlanner):
    """Fills tensors; what is stored otherwise torch would unpickle, whatever it is."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Nothing of ours is stored so."""
        raise ValueError(f"{read_item.storage_index.fqn} is no tensor")


class ShardReader(FileSystemReader):
    """Reads a folder of shards; executes nothing that stands there."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """What the folder holds.

        Raises:
            ValueError: if its description is damaged, missing, or of something else.
        """
        path = Path(self._get_metadata_path(kwargs.get("rank")))
        try:
            metadata = _Unpickler(io.BytesIO(path.read_bytes())).load()
            _check(metadata)
        except _DAMAGE as error:
            raise ValueError(f"{path} is no description of shards: {one_line(error)}") from error
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


def _check(metadata: Any) -> None:
    """Raises one of `_DAMAGE` for what torch's reader would stumble over, and for files outside the folder."""
    if type(metadata) is not Metadata or not all(type(name) is str for name in metadata.state_dict_metadata):
        raise ValueError("it describes something else")
    for entry in metadata.state_dict_metadata.values():
        whole = type(entry) is not TensorStorageMetadata or (entry.chunks and entry.properties.dtype.itemsize and entry.size)
        if not whole:
            raise ValueError("it describes a tensor without values")
    for shard in metadata.storage_data.values():
        name = str(shard.relative_path)
        if not name or name == ".." or Path(name).name != name:
            raise ValueError(f"{shown(name)} is no file of the folder")
