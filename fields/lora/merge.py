"""What becomes of experts when a student starts as one of them, or as several."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fields.carriers import Tensors
from fields.lora.adapter import Adapter, LoraShape, adapted_modules, weight_difference


def rescaled(adapter: Adapter, shape: LoraShape) -> dict[str, Float[Tensor, "..."]]:
    """The adapter's tensors as a student of another alpha must hold them to compute the same: B takes the ratio of scales."""
    tensors = dict(adapter.tensors)
    for module in adapted_modules(adapter.tensors):
        ratio = adapter.shape.scale(module) / shape.scale(module)
        if ratio != 1:
            tensors[f"{module}.lora_B.weight"] = ratio * tensors[f"{module}.lora_B.weight"]
    return tensors


def combine(adapters: Mapping[str, tuple[Adapter, float]], shape: LoraShape) -> dict[str, Float[Tensor, "..."]]:
    """The adapter of a given shape nearest to a weighted sum of adapters, sum_i w_i s_i B_i A_i.

    Raises:
        ValueError: if there is no adapter, or adapters change different modules.
    """
    tensors: dict[str, Tensor] = {}
    for module in common_modules({name: adapter for name, (adapter, _) in adapters.items()}):
        b, a = [], []
        for adapter, weight in adapters.values():
            b.append(weight * adapter.shape.scale(module) * adapter.tensors[f"{module}.lora_B.weight"].double())
            a.append(adapter.tensors[f"{module}.lora_A.weight"].double())
        tensors |= factorized(module, torch.cat(b, dim=1), torch.cat(a), shape)
    return tensors


def common_modules(adapters: Mapping[str, Adapter]) -> list[str]:
    """The modules that the adapters change, sorted.

    Raises:
        ValueError: if there is no adapter, or adapters change different modules.
    """
    changed = {name: adapted_modules(adapter.tensors) for name, adapter in adapters.items()}
    if not changed:
        raise ValueError("none of the experts has an adapter to merge; start at the base instead")
    first = next(iter(changed))
    for name, modules in changed.items():
        if modules != changed[first]:
            raise ValueError(f"adapters {first!r} and {name!r} cannot be merged: they change different modules")
    return changed[first]


def factorized(
    module: str, b: Float[Tensor, "outputs sum"], a: Float[Tensor, "sum inputs"], shape: LoraShape
) -> dict[str, Float[Tensor, "..."]]:
    """The tensors, float32, of the adapter of a given shape that comes nearest to b a: a truncated SVD.

    The dense matrix is never made: with b = Q R and a^T = P S it is Q (R S^T) P^T, and R S^T has at most `sum` rows.
    """
    q, r = torch.linalg.qr(b)
    p, s = torch.linalg.qr(a.T)
    u, sigma, vh = torch.linalg.svd(r @ s.T, full_matrices=False)
    rank = min(shape.rank, len(sigma))
    root = sigma[:rank].sqrt()
    lora_a = torch.zeros(shape.rank, a.shape[1], device=a.device)
    lora_b = torch.zeros(b.shape[0], shape.rank, device=b.device)
    lora_a[:rank] = root[:, None] * vh[:rank] @ p.T
    lora_b[:, :rank] = q @ u[:, :rank] * root / shape.scale(module)
    return {f"{module}.lora_A.weight": lora_a, f"{module}.lora_B.weight": lora_b}


def merged_network(transformer: nn.Module, adapter: Adapter | None) -> dict[str, Float[Tensor, "..."]]:
    """A network's parameters, float32, with an adapter added to its weights."""
    tensors = {name: parameter.detach().float().clone() for name, parameter in transformer.named_parameters()}
    if adapter is not None:
        for module in adapted_modules(adapter.tensors):
            weight = tensors[f"{module}.weight"]
            weight += weight_difference(adapter.tensors, module, adapter.shape.scale(module), weight.device)
    return tensors


def combine_networks(base: Tensors, networks: Sequence[tuple[Tensors, float]]) -> dict[str, Float[Tensor, "..."]]:
    """base + sum_i w_i (W_i - base): what adding weighted adapters is for full networks."""
    return {name: weight + sum(w * (tensors[name] - weight) for tensors, w in networks) for name, weight in base.items()}
