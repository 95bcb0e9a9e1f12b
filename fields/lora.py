"""LoRA adapters: on disk as PEFT writes them, in a module by PEFT, merged into weights for a rollout.

Tensors carry the name of their module: `blocks.0.to_qkv.lora_A.weight` has shape (rank, in), `lora_B` (out, rank).
The adapted weight is W + (alpha / rank) B A (Hu et al., arXiv 2106.09685).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fields.carriers import Tensors

_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_ADAPTER = "default"


@dataclass(frozen=True, slots=True)
class LoraShape:
    """How an adapter is built: which linear modules (name suffixes), which rank, which scale numerator."""

    rank: int
    alpha: float
    targets: tuple[str, ...]

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter read from disk: its shape and its float32 tensors."""

    shape: LoraShape
    tensors: Tensors


def read_adapter(path: Path) -> Adapter:
    """Read a PEFT LoRA folder.

    Raises:
        ValueError: if a file is missing or damaged, or the adapter is not a plain LoRA.
    """
    for name in (_CONFIG, _WEIGHTS):
        if not (path / name).is_file():
            raise ValueError(f"{path} is no PEFT adapter: it has no {name}")
    config = json.loads((path / _CONFIG).read_text())
    if not isinstance(config, dict) or not {"peft_type", "r", "lora_alpha", "target_modules"} <= config.keys():
        raise ValueError(f"{path / _CONFIG} is no adapter configuration")
    variants = [name for name in ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern") if config.get(name)]
    if config["peft_type"] != "LORA" or variants or not isinstance(config["target_modules"], list):
        raise ValueError(
            f"{path}: only a plain LoRA of one rank with a list of target modules is supported, "
            f"not {', '.join(variants) or config['peft_type']}"
        )
    try:
        tensors = load_file(path / _WEIGHTS)
    except SafetensorError as error:
        raise ValueError(f"{path / _WEIGHTS} is damaged: {error}") from error
    named = {name.removeprefix(_PREFIX): tensor.float() for name, tensor in tensors.items()}
    shape = LoraShape(config["r"], float(config["lora_alpha"]), tuple(sorted(config["target_modules"])))
    return Adapter(shape, named)


def write_adapter(path: Path, adapter: Adapter, dtype: torch.dtype = torch.float32) -> None:
    """Write a folder that `PeftModel.from_pretrained` and `read_adapter` read."""
    from peft import LoraConfig

    path.mkdir(parents=True, exist_ok=True)
    shape = adapter.shape
    config = LoraConfig(r=shape.rank, lora_alpha=shape.alpha, target_modules=sorted(shape.targets), inference_mode=True)  # type: ignore[arg-type]
    config.save_pretrained(str(path))
    save_file({_PREFIX + name: tensor.to(dtype).contiguous() for name, tensor in adapter.tensors.items()}, path / _WEIGHTS)


def add_lora(transformer: nn.Module, shape: LoraShape, seed: int) -> dict[str, nn.Parameter]:
    """Put a fresh adapter into the module with PEFT and return its parameters, float32, by name.

    A is Gaussian and drawn from `seed`, B is zero: the module computes what it did before, to the last bit.

    Raises:
        ValueError: if a target matches no module.
    """
    from peft import LoraConfig, inject_adapter_in_model

    linear = [name for name, module in transformer.named_modules() if isinstance(module, nn.Linear)]
    for target in shape.targets:
        if not any(name == target or name.endswith(f".{target}") for name in linear):
            raise ValueError(f"LoRA target {target!r} matches no linear module of {type(transformer).__name__}")
    config = LoraConfig(r=shape.rank, lora_alpha=shape.alpha, target_modules=list(shape.targets), init_lora_weights="gaussian")  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, transformer, adapter_name=_ADAPTER)
    parameters = {}
    for name, parameter in transformer.named_parameters():
        if ".lora_A." in name or ".lora_B." in name:
            parameter.data = parameter.data.float()  # float32 masters, also over a bfloat16 base
            parameters[name.replace(f".{_ADAPTER}.", ".")] = parameter
    return parameters


def load_into(parameters: Mapping[str, Tensor], tensors: Tensors, source: str) -> None:
    """Copy an adapter's tensors into a module's parameters.

    Raises:
        ValueError: unless names and shapes match in full; says how many don't, and the first.
    """
    wrong = [
        f"{name} is {tuple(tensors[name].shape) if name in tensors else 'absent'}, "
        f"wanted {tuple(parameters[name].shape) if name in parameters else 'none'}"
        for name in sorted(parameters.keys() | tensors.keys())
        if name not in parameters or name not in tensors or parameters[name].shape != tensors[name].shape
    ]
    if wrong:
        raise ValueError(f"{source}: {len(wrong)} tensors of the adapter don't fit the model; first: {wrong[0]}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])


def adapted_modules(tensors: Tensors) -> list[str]:
    """The names of the modules that an adapter changes, sorted."""
    return sorted(name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight"))


def weight_difference(tensors: Tensors, module: str, scale: float) -> Tensor:
    """What the adapter adds to a module's weight: scale * B A, (out, in)."""
    return scale * tensors[f"{module}.lora_B.weight"] @ tensors[f"{module}.lora_A.weight"]


def combine(adapters: Mapping[str, tuple[Adapter, float]], shape: LoraShape) -> dict[str, Tensor]:
    """The adapter of a given shape nearest to a weighted sum of adapters: a truncated SVD of sum_i w_i s_i B_i A_i.

    Raises:
        ValueError: if the adapters don't change the same modules.
    """
    changed = {name: adapted_modules(adapter.tensors) for name, (adapter, _) in adapters.items()}
    first = next(iter(changed))
    for name, modules in changed.items():
        if modules != changed[first]:
            raise ValueError(f"adapters {first!r} and {name!r} cannot be merged: they change different modules")
    tensors = {}
    for module in changed[first]:
        differences = [weight * weight_difference(a.tensors, module, a.shape.scale) for a, weight in adapters.values()]
        tensors |= factorized(module, torch.stack(differences).sum(dim=0), shape)
    return tensors


def factorized(module: str, difference: Tensor, shape: LoraShape) -> dict[str, Tensor]:
    """The tensors of an adapter of a given shape that come nearest to a weight's difference (out, in): a truncated SVD."""
    u, s, vh = torch.linalg.svd(difference, full_matrices=False)
    root = s[: shape.rank].sqrt()
    rank = len(root)
    a = torch.zeros(shape.rank, vh.shape[1])
    b = torch.zeros(u.shape[0], shape.rank)
    a[:rank] = root[:, None] * vh[:rank]
    b[:, :rank] = u[:, :rank] * root / shape.scale
    return {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}
