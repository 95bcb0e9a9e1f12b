"""Merge experts layer by layer in least squares on their own activations: a start for the student, and a baseline.

RegMean (Jin et al., arXiv 2212.09849): for every adapted layer the difference D that minimises sum_m || X_m (D - D_m)^T ||^2,

    D = (sum_m D_m G_m) (sum_m G_m)^-1,      G_m = X_m^T X_m / trace(X_m^T X_m),

where X_m are the layer's inputs in expert m along its own rollout, and D_m its LoRA's difference of the weight (0 for the
base). Unlike an average it keeps each expert where that expert's inputs lie.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fields.carriers import Condition
from fields.families.base import Family
from fields.lora.adapter import Adapter, LoraShape
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


def regression_merge(
    family: Family, samples: Mapping[str, Sample], shape: LoraShape, device: torch.device | None = None
) -> dict[str, Float[Tensor, "..."]]:
    """The adapter of a given shape for the merged difference, float32.

    D is computed by its factors, sum_m s_m B_m (A_m G_m), and is never a dense matrix.

    Args:
        family: how the networks are called.
        samples: what each expert is run on, by its name.
        shape: of the student.
        device: where the experts run, one after the other, and where the float64 G_m are; None is the CPU.

    Raises:
        ValueError: if no expert has an adapter, or adapters change different modules.
    """
    modules = common_modules({name: sample.adapter for name, sample in samples.items() if sample.adapter})
    device = device or torch.device("cpu")
    total: dict[str, Tensor] = {}
    b: dict[str, list[Tensor]] = {module: [] for module in modules}
    a: dict[str, list[Tensor]] = {module: [] for module in modules}
    for sample, grams in _all_grams(family, list(samples.values()), modules, device):
        for module, gram in grams.items():
            total[module] = total[module] + gram if module in total else gram
            if sample.adapter is not None:
                own_a, own_b = (sample.adapter.tensors[f"{module}.lora_{side}.weight"].to(device).double() for side in "AB")
                b[module].append(sample.adapter.shape.scale(module) * own_b)
                a[module].append(own_a @ gram)
    tensors: dict[str, Tensor] = {}
    for module in modules:
        g = total.pop(module)
        g.diagonal().add_(_RIDGE * g.diagonal().mean())
        merged_a = torch.linalg.solve(g, torch.cat(a[module]).T).T  # g is symmetric
        tensors |= factorized(module, torch.cat(b[module], dim=1), merged_a, shape)
    return tensors


def _all_grams(
    family: Family, samples: Sequence[Sample], modules: list[str], device: torch.device
) -> Iterator[tuple[Sample, dict[str, Tensor]]]:
    """Each sample with its G_m, in their order. On a CPU all run at once, each in a thread, which changes no bit; a GPU has
    room for one network and its G_m."""

    def grams(sample: Sample) -> dict[str, Tensor]:
        return _grams(family, sample, modules, device)

    if device.type != "cpu":
        yield from ((sample, grams(sample)) for sample in samples)
        return
    with ThreadPoolExecutor(len(samples)) as pool:
        yield from zip(samples, pool.map(grams, samples), strict=True)


def _grams(family: Family, sample: Sample, modules: list[str], device: torch.device) -> dict[str, Tensor]:
    """Each module's X^T X over the expert's rollout, float64, scaled to trace 1; the network is on the device meanwhile."""
    grams: dict[str, Tensor] = {}

    def collect(module: str):
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].flatten(0, -2).double()
            grams[module] = grams[module].addmm_(x.T, x) if module in grams else x.T @ x

        return hook

    hooks = [sample.transformer.get_submodule(module).register_forward_pre_hook(collect(module)) for module in modules]

    def velocity(x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return family.velocity(sample.transformer, x_t, t, condition)

    sample.transformer.to(device)
    clean(velocity, sample.noise.to(device), sample.grid.to(device), sample.condition.to(device), Euler())
    sample.transformer.cpu()
    for hook in hooks:
        hook.remove()
    return {module: gram / gram.diagonal().sum() for module, gram in grams.items()}
