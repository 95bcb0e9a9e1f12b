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
    """The adapter of a given shape nearest to a weighted sum of adapters: a truncated SVD of sum_i w_i s_i B_i A_i.

    Raises:
        ValueError: if there is no adapter, or adapters change different modules.
    """
    tensors: dict[str, Tensor] = {}
    for module in common_modules({name: adapter for name, (adapter, _) in adapters.items()}):
        differences = [weight * weight_difference(a.tensors, module, a.shape.scale(module)) for a, weight in adapters.values()]
        tensors |= factorized(module, torch.stack(differences).sum(dim=0), shape)
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


def factorized(module: str, difference: Float[Tensor, "outputs inputs"], shape: LoraShape) -> dict[str, Float[Tensor, "..."]]:
    """The tensors of an adapter of a given shape that come nearest to a weight's difference (out, in): a truncated SVD."""
    u, s, vh = torch.linalg.svd(difference, full_matrices=False)
    root = s[: shape.rank].sqrt()
    rank = len(root)
    a = torch.zeros(shape.rank, vh.shape[1])
    b = torch.zeros(u.shape[0], shape.rank)
    a[:rank] = root[:, None] * vh[:rank]
    b[:, :rank] = u[:, :rank] * root / shape.scale(module)
    return {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}


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
