"""Adapter files as the world writes them, brought to one form.

    PEFT        folder: adapter_config.json; base_model.model.NAME.lora_A.weight
    diffusers   pytorch_lora_weights.safetensors; transformer.NAME.lora_A.weight, scale in its metadata or 1
    ComfyUI     one file; diffusion_model.NAME.lora_down.weight, NAME.alpha
    kohya       one file; lora_unet_NAME_WITH_UNDERSCORES.lora_down.weight, ....alpha

Files of original checkpoints name other modules than diffusers' networks have; diffusers' own loaders know how to translate
them. A key that is of no linear module of the network is an error, unless the user ignores it by name.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fields.carriers import Tensors
from fields.lora.adapter import Adapter, LoraShape, adapted_modules, linear_modules
from fields.lora.peft_files import (
    PREFIX,
    WEIGHTS,
    checked_config,
    config_arguments,
    peft_shape,
    rank_of,
    read_config,
    read_tensors,
)
from fields.shown import one_line
from fields.tensors import enumerated

DIFFUSERS_WEIGHTS = "pytorch_lora_weights.safetensors"
_METADATA = "lora_adapter_metadata"
_DIFFUSERS = "transformer."
_PREFIXES = (PREFIX, _DIFFUSERS, "diffusion_model.")
_FLAT_PREFIXES = ("lora_unet_", "lora_transformer_")
_A = ("lora_A.weight", "lora_down.weight", "lora.down.weight")
_B = ("lora_B.weight", "lora_up.weight", "lora.up.weight")
_PARTS = dict.fromkeys(_A, _A[0]) | dict.fromkeys(_B, _B[0]) | {"alpha": "alpha"}
_KEY = re.compile(rf"(?P<module>.+)\.(?P<part>{'|'.join(re.escape(part) for part in _PARTS)})")
_LOADERS = {  # network -> the class of diffusers.loaders that translates files of its original checkpoint
    "FluxTransformer2DModel": "FluxLoraLoaderMixin",
    "Flux2Transformer2DModel": "Flux2LoraLoaderMixin",
    "QwenImageTransformer2DModel": "QwenImageLoraLoaderMixin",
    "ZImageTransformer2DModel": "ZImageLoraLoaderMixin",
    "Lumina2Transformer2DModel": "Lumina2LoraLoaderMixin",
}


def load_adapter(path: Path, transformer: nn.Module, ignore: Sequence[str] = ()) -> Adapter:
    """Read an adapter of any of these forms for a network.

    Args:
        path: a folder, or a safetensors file.
        transformer: the bare network that the adapter is for.
        ignore: shell patterns of keys of the file that are left out.

    Raises:
        ValueError: if there is no adapter, it is damaged, or keys are of no linear module of the network; lists them.
    """
    file = _file(path)
    config = _config(file)
    kept = {key: tensor for key, tensor in read_tensors(file).items() if not any(fnmatchcase(key, one) for one in ignore)}
    named, foreign = _named(kept, transformer)
    if foreign and (loader := _LOADERS.get(type(transformer).__name__)):
        named, foreign = _named(_translated(kept, loader, file), transformer)
    if foreign:
        raise ValueError(
            f"{file}: {len(foreign)} keys are of no linear module of {type(transformer).__name__}: {enumerated(foreign)}; "
            "patterns of ignored keys can leave them out"
        )
    if infinite := [name for name, tensor in named.items() if tensor.is_complex() or not tensor.float().isfinite().all()]:
        raise ValueError(f"{file}: {len(infinite)} tensors have values that are no finite numbers: {enumerated(infinite)}")
    tensors = {name: tensor.float() for name, tensor in named.items() if not name.endswith(".alpha")}
    shape = peft_shape(config, tensors, file) if config else _shape(named, file)
    return Adapter(replace(shape, targets=()) if ignore else shape, tensors)


def write_diffusers(path: Path, adapter: Adapter) -> None:
    """Write into a folder the file that `DiffusionPipeline.load_lora_weights(folder)` reads."""
    path.mkdir(parents=True, exist_ok=True)
    config = {_DIFFUSERS + name: value for name, value in config_arguments(adapter).items()}
    tensors = {_DIFFUSERS + name: tensor.contiguous() for name, tensor in adapter.tensors.items()}
    save_file(tensors, path / DIFFUSERS_WEIGHTS, metadata={"format": "pt", _METADATA: json.dumps(config)})


def _file(path: Path) -> Path:
    """The file of the tensors: in a folder PEFT's, else diffusers', else the only one."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise ValueError(f"no such file or folder: {path}")
    found = [path / name for name in (WEIGHTS, DIFFUSERS_WEIGHTS) if (path / name).is_file()][:1]
    found = found or sorted(path.glob("*.safetensors"))
    if len(found) != 1:
        raise ValueError(f"{path} holds {len(found)} adapters: {WEIGHTS}, {DIFFUSERS_WEIGHTS} or one other safetensors file")
    return found[0]


def _config(file: Path) -> dict[str, Any] | None:
    """What is said about the adapter beside its tensors, in PEFT's words; None where at most the file's `alpha` keys do."""
    if file.name == WEIGHTS:
        return read_config(file.parent)
    try:
        with safe_open(file, framework="pt") as opened:
            said = json.loads((opened.metadata() or {}).get(_METADATA, "{}"))
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} is damaged: {error}") from error
    if not isinstance(said, dict):
        raise ValueError(f"{file} is damaged: what it says of its adapter is no mapping")
    config = {name.removeprefix(_DIFFUSERS): value for name, value in said.items() if name.startswith(_DIFFUSERS)}
    return checked_config({"peft_type": "LORA"} | config, file) if config else None


def _named(tensors: Tensors, transformer: nn.Module) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors as `MODULE.lora_A.weight`, `MODULE.lora_B.weight`, `MODULE.alpha`, and the keys of no linear module."""
    modules = {name: name for name in linear_modules(transformer)}
    flat = {name.replace(".", "_"): name for name in modules}
    named, foreign = {}, []
    for key, tensor in tensors.items():
        prefix = next((p for p in (*_PREFIXES, *_FLAT_PREFIXES) if key.startswith(p)), "")
        match = _KEY.fullmatch(key.removeprefix(prefix))
        module = (flat if prefix in _FLAT_PREFIXES else modules).get(match["module"]) if match else None
        if match and module:
            named[f"{module}.{_PARTS[match['part']]}"] = tensor
        else:
            foreign.append(key)
    return named, sorted(foreign)


def _translated(tensors: Tensors, loader: str, file: Path) -> Tensors:
    """A file of an original checkpoint's names and fused modules, as diffusers reads it; its scales are in the tensors."""
    from diffusers import loaders

    try:
        return getattr(loaders, loader).lora_state_dict(dict(tensors))
    except (KeyError, ValueError) as error:
        raise ValueError(f"{file}: diffusers' {loader} cannot translate it: {one_line(error)}") from error


def _shape(named: Tensors, file: Path) -> LoraShape:
    """The shape that a file's own tensors tell; without an `alpha` key the scale is 1."""
    modules = adapted_modules(named)
    if not modules:
        raise ValueError(f"{file}: the adapter has no tensors")
    ranks = {module: rank_of(named[f"{module}.lora_A.weight"], module, file) for module in modules}
    alphas = {module: float(named.get(f"{module}.alpha", torch.tensor(ranks[module]))) for module in modules}
    return LoraShape.of(ranks, alphas, ())
