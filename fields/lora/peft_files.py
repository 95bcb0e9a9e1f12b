"""Adapter folders as PEFT writes them: adapter_config.json and adapter_model.safetensors."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fields.carriers import Tensors
from fields.lora.adapter import Adapter, LoraShape, adapted_modules
from fields.shown import shown
from fields.tensors import enumerated

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."

_MOST = 1e9  # of ranks and alphas
_TAKES_FOR_EVER = re.compile(r"\)[*+{]")  # a regular expression that repeats a group may


def read_adapter(path: Path) -> Adapter:
    """Read a PEFT LoRA folder, with patterns of rank and alpha and with rank-stabilised scales.

    Raises:
        ValueError: if a file is missing or damaged, the adapter is not a LoRA, or a tensor is of something else.
    """
    config = read_config(path)
    tensors = {name.removeprefix(PREFIX): tensor.float() for name, tensor in read_tensors(path / WEIGHTS).items()}
    if foreign := [name for name in sorted(tensors) if not name.endswith((".lora_A.weight", ".lora_B.weight"))]:
        raise ValueError(f"{path}: {len(foreign)} tensors are of no linear LoRA: {enumerated(foreign)}")
    return Adapter(peft_shape(config, tensors, path), tensors)


def read_config(path: Path) -> dict[str, Any]:
    """The configuration of a PEFT LoRA folder.

    Raises:
        ValueError: if the folder lacks a file, or the configuration is not of a LoRA.
    """
    for name in (CONFIG, WEIGHTS):
        if not (path / name).is_file():
            raise ValueError(f"{path} is no PEFT adapter: it has no {name}")
    try:
        config = json.loads((path / CONFIG).read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path / CONFIG} is no JSON: {error}") from error
    return checked_config(config, path / CONFIG)


def checked_config(config: Any, path: Path) -> dict[str, Any]:
    """The same configuration.

    Raises:
        ValueError: if it is not of a LoRA, or its numbers and patterns are none.
    """
    if not isinstance(config, dict) or not {"peft_type", "r", "lora_alpha", "target_modules"} <= config.keys():
        raise ValueError(f"{path} is no adapter configuration")
    _check_numbers(config, path)
    if isinstance(targets := config["target_modules"], list) and not all(isinstance(target, str) for target in targets):
        raise ValueError(f"{path}: target_modules are names of modules")
    if config["peft_type"] != "LORA" or config.get("use_dora"):
        raise ValueError(f"{path}: only LoRA is supported, not {'DoRA' if config.get('use_dora') else config['peft_type']}")
    return config


def _check_numbers(config: Mapping[str, Any], path: Path) -> None:
    numbers = {key: config[key] for key in ("r", "lora_alpha")}
    for key in ("rank_pattern", "alpha_pattern"):
        if not isinstance(patterns := config.get(key) or {}, dict):
            raise ValueError(f"{path}: {key} is no mapping of modules to numbers")
        numbers |= {f"{key} {pattern!r}": value for pattern, value in patterns.items()}
        for pattern in patterns:
            if _TAKES_FOR_EVER.search(pattern):
                raise ValueError(f"{path}: {key} {pattern!r} repeats a group, which is not read from a file")
    for key, value in numbers.items():
        least = 0 if key.startswith("r") else -_MOST  # an alpha of 0 or less switches a module off, or subtracts it
        if isinstance(value, bool) or not isinstance(value, int | float) or not least < value < _MOST:
            raise ValueError(f"{path}: {key} is {shown(value)}; allowed are numbers above {least:g} and below {_MOST:g}")


def peft_shape(config: Mapping[str, Any], tensors: Tensors, path: Path) -> LoraShape:
    """The shape that a PEFT configuration gives these tensors.

    `use_rslora` scales by alpha / sqrt(rank) (Kalajdzievski, arXiv 2312.03732): here alpha sqrt(rank) over the rank.

    Raises:
        ValueError: if there is no tensor, or one has another rank than the configuration says.
    """
    rank_pattern, alpha_pattern = config.get("rank_pattern") or {}, config.get("alpha_pattern") or {}
    ranks, alphas = {}, {}
    for module in adapted_modules(tensors):
        rank = ranks[module] = int(_own(rank_pattern, module, config["r"]))
        if (found := rank_of(tensors[f"{module}.lora_A.weight"], module, path)) != rank:
            raise ValueError(f"{path}: {module}.lora_A.weight has rank {found}; the configuration says {rank}")
        alpha = float(_own(alpha_pattern, module, config["lora_alpha"]))
        alphas[module] = alpha * math.sqrt(rank) if config.get("use_rslora") else alpha
    if not ranks:
        raise ValueError(f"{path}: the adapter has no tensors")
    targets = config["target_modules"]
    says_all = isinstance(targets, list) and not config.get("layers_to_transform") and not config.get("exclude_modules")
    return LoraShape.of(ranks, alphas, tuple(sorted(targets)) if says_all else ())


def rank_of(lora_a: Shaped[Tensor, "..."], module: str, path: Path) -> int:
    """The rank that an adapter's first matrix has.

    Raises:
        ValueError: if it is no matrix of floating-point numbers, or empty; names the file.
    """
    if lora_a.ndim < 2 or not len(lora_a) or not lora_a.is_floating_point():
        raise ValueError(f"{path}: {module}.lora_A.weight is no matrix of a LoRA: {lora_a.dtype}, shape {list(lora_a.shape)}")
    return len(lora_a)


def _own(patterns: Mapping[str, int | float], module: str, otherwise: int | float) -> int | float:
    """The value of the first pattern that a module's name, or its end after a dot, matches in full.

    This is PEFT's rule; reading an adapter does not import PEFT, which imports transformers.
    """
    for pattern, value in patterns.items():
        try:
            if re.match(rf"(.*\.)?({pattern})$", module):
                return value
        except re.error as error:
            raise ValueError(f"{pattern!r} is no pattern of modules: {error}") from error
    return otherwise


def read_tensors(path: Path) -> dict[str, Shaped[Tensor, "..."]]:
    """The tensors of a safetensors file.

    Raises:
        ValueError: if it is damaged.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def write_adapter(path: Path, adapter: Adapter, dtype: torch.dtype = torch.float32) -> None:
    """Write a folder that `PeftModel.from_pretrained` and `read_adapter` read.

    The configuration is written without PEFT: importing that takes four seconds, at a run's first checkpoint, and its list of
    modules has another order in every process.
    """
    path.mkdir(parents=True, exist_ok=True)
    config = {"peft_type": "LORA", "task_type": None, "base_model_name_or_path": None, "inference_mode": True}
    (path / CONFIG).write_text(json.dumps(config | config_arguments(adapter), indent=2) + "\n")
    save_file({PREFIX + name: tensor.to(dtype).contiguous() for name, tensor in adapter.tensors.items()}, path / WEIGHTS)


def config_arguments(adapter: Adapter) -> dict[str, Any]:
    """The arguments of a `peft.LoraConfig` that describe an adapter.

    They name every module in full; `^` anchors a pattern at the start of a name. PEFT takes an ending for every module that has
    it, also for one that is not linear: in FLUX.2 `attn.to_out` is a linear module of some blocks and a list in others, which
    PEFT would refuse.
    """
    shape = adapter.shape
    return {
        "r": shape.rank,
        "lora_alpha": shape.alpha,
        "rank_pattern": {f"^{re.escape(module)}": rank for module, rank in shape.ranks.items()},
        "alpha_pattern": {f"^{re.escape(module)}": alpha for module, alpha in shape.alphas.items()},
        "target_modules": adapted_modules(adapter.tensors),
    }
