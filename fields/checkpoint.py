"""Checkpoints: everything that the next step depends on, written whole or not at all.

step-000200/
    adapter_config.json, adapter_model.safetensors     the student as a LoRA, as PEFT writes it
    pytorch_lora_weights.safetensors                   the same, as diffusers' pipelines load it
    config.json, ...model.safetensors                  or the full student, as its family loads it
    ema/                                               its moving average, likewise
    optimizer.safetensors                              AdamW's moments
    published/version-000199.safetensors               the versions that coming steps roll out with
    state.json                                         step, checksums, size and SHA-256 of every file; written last

Where ranks share a full student, each writes its shards of student, average and moments:
    shards/                                            a distributed checkpoint of torch's, for any number of ranks
and the model folders come when somebody asks for them (`consolidate`).
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from fields import shards
from fields.atomic import flush, replacing, write_text
from fields.carriers import Tensors, Weights
from fields.distiller import Distiller
from fields.families.base import Family
from fields.keeping import Keeping
from fields.lora.peft_files import read_tensors
from fields.numerics import device_name
from fields.student import Student, read_student

_STATE = "state.json"
_SHARDS = "shards"
_EMA = "ema"
_OPTIMIZER = "optimizer.safetensors"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The state of a run after `step` optimizer steps; tensors are read, whole and to the host, when they are asked for.

    `recipe` holds the settings that decide the result; a run only continues with the same ones. `device` is where the student
    learned, as `fields.numerics.device_name` calls it: on another the last bits may differ. None in an earlier version's.
    `trained` names the trainable tensors, `checksums` the published versions that coming steps roll out with.
    """

    path: Path
    step: int
    recipe: Mapping[str, Any]
    device: str | None
    trained: tuple[str, ...]
    checksums: Mapping[int, str]

    @property
    def sharded(self) -> bool:
        """Whether ranks wrote their shards of student, average and moments."""
        return (self.path / _SHARDS).is_dir()

    @cached_property
    def student(self) -> Tensors:
        """The trainable tensors."""
        return shards.read(self.path / _SHARDS, "student/") if self.sharded else read_student(self.path, self.trained)

    @cached_property
    def ema(self) -> Tensors:
        """Their moving average."""
        return shards.read(self.path / _SHARDS, "ema/") if self.sharded else read_student(self.path / _EMA, self.trained)

    @cached_property
    def optimizer(self) -> Tensors:
        """AdamW's moments, as `Distiller.optimizer_tensors` calls them."""
        return shards.read(self.path / _SHARDS, "optimizer/") if self.sharded else read_tensors(self.path / _OPTIMIZER)

    @cached_property
    def published(self) -> Mapping[int, Weights]:
        """The versions that coming steps roll out with."""
        return {
            version: Weights.verified(version, read_tensors(_version_file(self.path, version)), checksum)
            for version, checksum in self.checksums.items()
        }


def save(folder: Path, step: int, distiller: Distiller, published: Mapping[int, Weights], recipe: Mapping[str, Any]) -> Path:
    """Write the checkpoint's folder, whole or not at all; returns it. Of many ranks all call this, and rank 0 writes; where
    they share the student, all write."""
    final, ranks = folder_of(folder, step), distiller.ranks
    if ranks.shards_student and ranks.rank:
        shards.write(ranks.told(None) / _SHARDS, distiller.state())
        return final
    whole = None if ranks.shards_student else (distiller.averaged_weights(step).tensors, distiller.optimizer_tensors())
    if ranks.rank:
        return final
    with replacing(final) as temporary:
        if whole is None:
            shards.write(ranks.told(temporary) / _SHARDS, distiller.state())
        else:
            averaged, moments = whole
            for place, tensors in ((temporary, distiller.weights(step).tensors), (temporary / _EMA, averaged)):
                distiller.student.save(place, distiller.family, distiller.transformer, tensors)
            save_file(moments, temporary / _OPTIMIZER)
        _write(temporary, step, distiller, published, recipe)
    return final


def _write(folder: Path, step: int, distiller: Distiller, published: Mapping[int, Weights], recipe: Mapping[str, Any]) -> None:
    """What stands beside the student: the versions that are needed, and the state, last."""
    (folder / "published").mkdir()
    for version, weights in published.items():
        save_file(dict(weights.tensors), _version_file(folder, version))
    state = {
        "step": step,
        "trained": sorted(distiller.parameters),
        "checksums": {str(version): weights.checksum for version, weights in published.items()},
        "recipe": recipe,
        "device": device_name(distiller.device),
        "files": _digests(folder),
        "sizes": _sizes(folder),
    }
    (folder / _STATE).write_text(json.dumps(state, indent=2) + "\n")


def _version_file(folder: Path, version: int) -> Path:
    return folder / "published" / f"version-{version:06d}.safetensors"


def _digests(folder: Path) -> dict[str, str]:
    """Every file of a checkpoint but its state -> SHA-256."""
    return {str(path.relative_to(folder)): _digest(path) for path in _files(folder)}


def _sizes(folder: Path) -> dict[str, int]:
    """Every file of a checkpoint but its state -> bytes."""
    return {str(path.relative_to(folder)): path.stat().st_size for path in _files(folder)}


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / _STATE)


def read(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        ValueError: if it is not complete: no state.json, or a file missing or other than it was written.
    """
    if problem := _damage(path):
        raise ValueError(f"{path} is no complete checkpoint: {problem}")
    state = _state(path)
    return Checkpoint(
        path=path,
        step=state["step"],
        recipe=state["recipe"],
        device=state.get("device"),
        trained=tuple(state["trained"]),
        checksums={int(version): checksum for version, checksum in state["checksums"].items()},
    )


def restore(path: Path, distiller: Distiller) -> Checkpoint:
    """Let a student continue from a checkpoint, whoever shared it then and whoever shares it now.

    Raises:
        ValueError: if the checkpoint is not complete, or doesn't fit the student.
    """
    saved = read(path)
    if saved.sharded:
        distiller.restore_in_place(saved.step, lambda state: shards.read_into(path / _SHARDS, state))
    else:
        distiller.restore(saved.student, saved.ema, saved.optimizer, saved.step)
    return saved


def consolidate(path: Path, student: Student, family: Family, transformer: nn.Module) -> None:
    """Write the model folders of student and average that a checkpoint of shards lacks; every other checkpoint has them. Until
    the state names them, it is what it was.

    Args:
        path: of the checkpoint.
        student: what was trained.
        family: of the network.
        transformer: the base, on the host.

    Raises:
        ValueError: if the checkpoint is not complete.
    """
    read(path)
    student.save(path, family, transformer, shards.read(path / _SHARDS, "student/"))
    student.save(path / _EMA, family, transformer, shards.read(path / _SHARDS, "ema/"))
    state = _state(path)
    files = _digests(path) | state["files"]
    for name in files.keys() - state["files"].keys():
        flush(path / name)
    write_text(path / _STATE, json.dumps(state | {"files": files, "sizes": _sizes(path)}, indent=2) + "\n")


def lacks_models(path: Path) -> bool:
    """Whether a folder is a checkpoint of shards that nobody has consolidated; raises ValueError if its state is damaged."""
    if not (path / _SHARDS).is_dir() or not (path / _STATE).is_file():
        return False
    return not any(name.startswith(f"{_EMA}/") for name in _state(path)["files"])


def averaged_files(path: Path) -> list[Path]:
    """The files of a complete checkpoint's moving average."""
    return [path / name for name in sorted(_state(path)["files"]) if name.startswith(f"{_EMA}/")]


def folder_of(folder: Path, step: int) -> Path:
    """Where the checkpoint after so many optimizer steps is written."""
    return folder / f"step-{step:06d}"


def steps_of(path: Path) -> int:
    """The optimizer steps after which a checkpoint was written, by its name."""
    return int(path.name.removeprefix("step-"))


def newest(folder: Path, above: int = -1) -> Path | None:
    """The newest complete checkpoint of more steps than `above`; what is damaged or half-written is passed over."""
    return next((path for path in _by_age(folder) if steps_of(path) > above and _damage(path) is None), None)


def prune(folder: Path, keeping: Keeping) -> None:
    """Delete the checkpoints that need not stay, and what a process that was killed while it wrote one has left; nobody writes
    one meanwhile. Files are told by their sizes alone: hashing all that is kept at every save takes seconds of the run, and
    whoever reads a checkpoint does so."""
    for path in folder.glob(".step-*"):
        shutil.rmtree(path)
    present = _by_age(folder)
    complete = [steps_of(path) for path in present if _damage(path, hashed=False) is None]
    for step in keeping.superseded(complete, [steps_of(path) for path in present]):
        shutil.rmtree(folder_of(folder, step))


def after(folder: Path, step: int) -> list[Path]:
    """The checkpoints of later steps, complete or not, newest first."""
    return [path for path in _by_age(folder) if steps_of(path) > step]


def discard_after(folder: Path, step: int) -> None:
    """Delete the checkpoints of later steps: a run that goes back to `step` drops their rows from its record too."""
    for path in after(folder, step):
        shutil.rmtree(path)


def _by_age(folder: Path) -> list[Path]:
    """The folders that are named like checkpoints, newest first."""
    named = [path for path in folder.glob("step-*") if path.name.removeprefix("step-").isdecimal()]
    return sorted(named, key=steps_of, reverse=True)


def _damage(path: Path, hashed: bool = True) -> str | None:
    """What is wrong with a checkpoint, by the sizes of its files and, if they are hashed, by every byte; None if nothing is."""
    try:
        state = _state(path)
    except (OSError, ValueError):
        return f"{_STATE} is missing or damaged"
    sizes = state.get("sizes", {})
    for name, digest in state["files"].items():
        if not (path / name).is_file():
            return f"{name} is missing"
        if sizes.get(name, size := (path / name).stat().st_size) != size or (hashed and _digest(path / name) != digest):
            return f"{name} is damaged"
    return None


def _state(path: Path) -> dict[str, Any]:
    """What a checkpoint says of itself.

    Raises:
        OSError: if it says nothing.
        ValueError: if that is damaged, or of another step than the folder's name.
    """
    try:
        state = json.loads((path / _STATE).read_text(encoding="utf-8"))
        kinds = {"step": int, "trained": list, "checksums": dict, "recipe": dict, "files": dict}
        whole = all(type(state[key]) is kind for key, kind in kinds.items()) and isinstance(state.get("sizes", {}), dict)
        inside = all(not Path(name).is_absolute() and ".." not in Path(name).parts for name in state["files"])
        versions = {int(version) for version in state["checksums"]}
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path / _STATE} is damaged") from error
    named = path.name.startswith("step-") and path.name.removeprefix("step-").isdecimal()
    if not whole or not inside or min({state["step"], *versions}) < 0 or (named and steps_of(path) != state["step"]):
        raise ValueError(f"{path / _STATE} is damaged")
    return state


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
