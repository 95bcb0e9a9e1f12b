"""Random adapters and what they add to a weight, for the tests of adapters."""

import torch

from fields.lora.adapter import Adapter


def random_like(parameters, seed):
    rng = torch.Generator().manual_seed(seed)
    return {name: torch.randn(parameter.shape, generator=rng) * 0.1 for name, parameter in parameters.items()}


def random_adapter(shape, seed, module="m", size=(12, 9)):
    rng = torch.Generator().manual_seed(seed)
    a, b = torch.randn(shape.rank, size[1], generator=rng), torch.randn(size[0], shape.rank, generator=rng)
    return Adapter(shape, {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b})


def product(adapter, module="m"):
    """scale B A in float64."""
    a, b = (adapter.tensors[f"{module}.lora_{side}.weight"].double().numpy() for side in "AB")
    return adapter.shape.scale(module) * b @ a
