"""Merge experts layer by layer in least squares on their own activations: a start for the student, and a baseline.

RegMean (Jin et al., arXiv 2212.09849): for every adapted layer the difference D that minimises sum_m || X_m (D - D_m)^T ||^2,

    D = (sum_m D_m G_m) (sum_m G_m)^-1,      G_m = X_m^T X_m / trace(X_m^T X_m),

where X_m are the layer's inputs in expert m along its own rollout, and D_m its LoRA's difference of the weight (0 for the
base). Unlike an average it keeps each expert where that expert's inputs lie.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fields.carriers import Condition
from fields.families.base import Family
from fields.lora.adapter import Adapter, LoraShape, weight_difference
from fields.lora.merge import common_modules, factorized
from fields.method.rollout import clean
from fields.method.solver import Euler

_RIDGE = 1e-6  # of the mean diagonal: keeps directions that no input has solvable


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What one expert is run on: its network with the adapter inside, its adapter, its conditions, their noise and times."""

    transformer: nn.Module
    adapter: Adapter | None
    condition: Condition
    noise: Float[Tensor, "batch ..."]
    grid: Float[Tensor, " points"]


def regression_merge(family: Family, samples: Mapping[str, Sample], shape: LoraShape) -> dict[str, Float[Tensor, "..."]]:
    """The adapter of a given shape for the merged difference, float32.

    Raises:
        ValueError: if no expert has an adapter, or adapters change different modules.
    """
    modules = common_modules({name: sample.adapter for name, sample in samples.items() if sample.adapter})
    grams = {name: _grams(family, sample, modules) for name, sample in samples.items()}
    tensors: dict[str, Tensor] = {}
    for module in modules:
        total = torch.stack([grams[name][module] for name in samples]).sum(dim=0)
        wanted = torch.stack(
            [
                weight_difference(s.adapter.tensors, module, s.adapter.shape.scale(module)).double() @ grams[name][module]
                for name, s in samples.items()
                if s.adapter
            ]
        ).sum(dim=0)
        ridge = _RIDGE * total.diagonal().mean() * torch.eye(len(total), dtype=total.dtype)
        tensors |= factorized(module, torch.linalg.solve(total + ridge, wanted.T).T.float(), shape)
    return tensors


def _grams(family: Family, sample: Sample, modules: list[str]) -> dict[str, Tensor]:
    """Each module's X^T X over the expert's rollout, float64, scaled to trace 1."""
    grams: dict[str, Tensor] = {}

    def collect(module: str):
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].flatten(0, -2).double()
            grams[module] = grams.get(module, torch.zeros(())) + x.T @ x

        return hook

    hooks = [sample.transformer.get_submodule(module).register_forward_pre_hook(collect(module)) for module in modules]

    def velocity(x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return family.velocity(sample.transformer, x_t, t, condition)

    clean(velocity, sample.noise, sample.grid, sample.condition, Euler())
    for hook in hooks:
        hook.remove()
    return {module: gram / gram.diagonal().sum() for module, gram in grams.items()}
