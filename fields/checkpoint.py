"""Checkpoints: everything that the next step depends on, written whole or not at all.

step-000200/
    adapter_config.json, adapter_model.safetensors     the student as a LoRA, as PEFT writes it
    pytorch_lora_weights.safetensors                   the same, as diffusers' pipelines load it
    config.json, ...model.safetensors                  or the full student, as its family loads it
    ema/                                               its moving average, likewise
    optimizer.safetensors                              AdamW's moments
    published/version-000199.safetensors               the versions that coming steps roll out with
    state.json                                         step, checksums, size and SHA-256 of every file; written last
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from fields.atomic import replacing
from fields.carriers import Tensors, Weights
from fields.distiller import Distiller
from fields.numerics import device_name
from fields.student import read_student

_STATE = "state.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The state of a run after `step` optimizer steps.

    `recipe` holds the settings that decide the result; a run only continues with the same ones. `device` is where the student
    learned, as `fields.numerics.device_name` calls it: on another the last bits may differ. None in an earlier version's.
    """

    step: int
    student: Tensors
    ema: Tensors
    optimizer: Tensors
    published: Mapping[int, Weights]
    recipe: Mapping[str, Any]
    device: str | None


def save(folder: Path, step: int, distiller: Distiller, published: Mapping[int, Weights], recipe: Mapping[str, Any]) -> Path:
    """Write `folder/step-NNNNNN`, whole or not at all; returns it. Of many ranks all call this, and rank 0 writes."""
    final = folder / f"step-{step:06d}"
    averaged, moments = distiller.averaged_weights(step).tensors, distiller.optimizer_tensors()
    if distiller.ranks.rank == 0:
        with replacing(final) as temporary:
            for place, tensors in ((temporary, distiller.weights(step).tensors), (temporary / "ema", averaged)):
                distiller.student.save(place, distiller.family, distiller.transformer, tensors)
            save_file(moments, temporary / "optimizer.safetensors")
            _write(temporary, step, distiller, published, recipe)
    return final


def _write(folder: Path, step: int, distiller: Distiller, published: Mapping[int, Weights], recipe: Mapping[str, Any]) -> None:
    """What stands beside the student: the versions that are needed, and the state, last."""
    (folder / "published").mkdir()
    for version, weights in published.items():
        save_file(dict(weights.tensors), folder / "published" / f"version-{version:06d}.safetensors")
    state = {
        "step": step,
        "trained": sorted(distiller.parameters),
        "checksums": {str(version): weights.checksum for version, weights in published.items()},
        "recipe": recipe,
        "device": device_name(distiller.device),
        "files": {str(path.relative_to(folder)): _digest(path) for path in sorted(folder.rglob("*")) if path.is_file()},
    }
    (folder / _STATE).write_text(json.dumps(state, indent=2) + "\n")


def read(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        ValueError: if it is not complete: no state.json, or a file missing or other than it was written.
    """
    if problem := _damage(path):
        raise ValueError(f"{path} is no complete checkpoint: {problem}")
    state = json.loads((path / _STATE).read_text())
    published = {
        int(version): Weights(
            policy_version=int(version),
            checksum=checksum,
            tensors=load_file(path / "published" / f"version-{int(version):06d}.safetensors"),
        )
        for version, checksum in state["checksums"].items()
    }
    return Checkpoint(
        step=state["step"],
        student=read_student(path, state["trained"]),
        ema=read_student(path / "ema", state["trained"]),
        optimizer=load_file(path / "optimizer.safetensors"),
        published=published,
        recipe=state["recipe"],
        device=state.get("device"),
    )


def steps_of(path: Path) -> int:
    """The optimizer steps after which a checkpoint was written, by its name."""
    return int(path.name.removeprefix("step-"))


def newest(folder: Path) -> Path | None:
    """The newest complete checkpoint; what is damaged or half-written is passed over."""
    return next((path for path in _by_age(folder) if _damage(path) is None), None)


def prune(folder: Path, keep: int) -> None:
    """Delete the checkpoints that are older than the `keep` newest complete ones."""
    candidates = _by_age(folder)
    complete = [path for path in candidates if _damage(path) is None]
    if len(complete) > keep:
        for path in candidates[candidates.index(complete[keep]) :]:
            shutil.rmtree(path)


def discard_after(folder: Path, step: int) -> None:
    """Delete the checkpoints of later steps: a run that goes back to `step` drops their rows from its record too."""
    for path in _by_age(folder):
        if steps_of(path) > step:
            shutil.rmtree(path)


def _by_age(folder: Path) -> list[Path]:
    """The folders that are named like checkpoints, newest first."""
    named = [path for path in folder.glob("step-*") if path.name.removeprefix("step-").isdecimal()]
    return sorted(named, key=steps_of, reverse=True)


def _damage(path: Path) -> str | None:
    try:
        state = json.loads((path / _STATE).read_text())
        files = state["files"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{_STATE} is missing or damaged"
    for name, digest in files:
        if not (path / name).is_file():
            return f"{name} is missing"
        if _digest(path / name) != digest:
            return f"{name} is damaged"
    return None


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
