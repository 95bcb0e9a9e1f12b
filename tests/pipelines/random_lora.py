"""Adapters for runs over tiny models."""

from pathlib import Path

import torch

from fields.lora.adapter import Adapter, LoraShape, add_lora
from fields.lora.peft_files import write_adapter
from fields.registry import FAMILIES


def write_random_lora(family: str, model: Path, path: Path) -> Path:
    """A random LoRA of rank 4 over what the family trains of a model."""
    shape = LoraShape(4, 4.0, FAMILIES[family].default_lora_targets)
    rng = torch.Generator().manual_seed(5)
    parameters = add_lora(FAMILIES[family](model).load_transformer(model), shape, seed=0)
    write_adapter(path, Adapter(shape, {n: torch.randn(p.shape, generator=rng) * 0.2 for n, p in parameters.items()}))
    return path
