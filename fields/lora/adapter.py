"""LoRA adapters, and how they are put into a network. Their files: `fields/lora/peft_files.py`, `fields/lora/formats.py`.

Tensors carry the name of their module: `blocks.0.to_qkv.lora_A.weight` has shape (rank, in), `lora_B` (out, rank).
The adapted weight is W + (alpha / rank) B A (Hu et al., arXiv 2106.09685).
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fields.carriers import Tensors, on_device
from fields.lora.linear import LoraLinear
from fields.tensors import load_into


@dataclass(frozen=True, slots=True)
class LoraShape:
    """How an adapter is built.

    Attributes:
        rank: of every module that `ranks` doesn't name.
        alpha: scale numerator of every module that `alphas` doesn't name.
        targets: name suffixes of the linear modules that it changes; empty when a file doesn't say.
        ranks: module -> its own rank.
        alphas: module -> its own scale numerator.
    """

    rank: int
    alpha: float
    targets: tuple[str, ...]
    ranks: Mapping[str, int] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)

    def scale(self, module: str) -> float:
        """alpha / rank of a module.

        >>> shape = LoraShape(rank=8, alpha=16.0, targets=("to_out",), ranks={"blocks.0.to_out": 32})
        >>> shape.scale("blocks.1.to_out"), shape.scale("blocks.0.to_out")
        (2.0, 0.5)
        """
        return self.alphas.get(module, self.alpha) / self.ranks.get(module, self.rank)

    @staticmethod
    def of(ranks: Mapping[str, int], alphas: Mapping[str, float], targets: tuple[str, ...]) -> "LoraShape":
        """The shape of given modules: what most of them have, and the exceptions."""
        rank, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
        return LoraShape(
            int(rank),
            alpha,
            targets,
            {module: own for module, own in ranks.items() if own != rank},
            {module: own for module, own in alphas.items() if own != alpha},
        )


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter in memory: its shape and its float32 tensors."""

    shape: LoraShape
    tensors: Tensors


def add_lora(transformer: nn.Module, shape: LoraShape, seed: int) -> dict[str, nn.Parameter]:
    """Put a fresh adapter into the network and return its parameters, float32, by name.

    A is Gaussian and drawn from `seed`, B is zero: the module computes what it did before, to the last bit.

    Raises:
        ValueError: if a target matches no module.
    """
    for target in shape.targets:
        if not targeted_modules(transformer, [target]):
            raise ValueError(f"LoRA target {target!r} matches no linear module of {type(transformer).__name__}")
    return _inject(transformer, targeted_modules(transformer, shape.targets), shape, seed)


def put_adapter(transformer: nn.Module, adapter: Adapter, source: str) -> dict[str, nn.Parameter]:
    """Put a given adapter into the network, into the modules that it has tensors for.

    Raises:
        ValueError: unless the adapter fits in full: every tensor has its module, and every module that the adapter
            claims to target has its tensors. Lists what doesn't fit.
    """
    own = set(adapted_modules(adapter.tensors)) & set(linear_modules(transformer))
    modules = sorted(own.union(targeted_modules(transformer, adapter.shape.targets)))
    parameters = _inject(transformer, modules, adapter.shape, seed=0) if modules else {}
    load_into(parameters, adapter.tensors, source)
    return parameters


def linear_modules(transformer: nn.Module) -> list[str]:
    """The names of the modules that an adapter can change."""
    return [name for name, module in transformer.named_modules() if isinstance(module, nn.Linear)]


def targeted_modules(transformer: nn.Module, targets: Iterable[str]) -> list[str]:
    """The names of the linear modules that are called, or end in a dot and, one of the targets."""
    endings = tuple(f".{target}" for target in targets)
    return [name for name in linear_modules(transformer) if f".{name}".endswith(endings)]


def _inject(transformer: nn.Module, modules: list[str], shape: LoraShape, seed: int) -> dict[str, nn.Parameter]:
    parameters = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in modules:
            linear = transformer.get_submodule(module)
            assert isinstance(linear, nn.Linear)
            adapted = LoraLinear(linear, shape.ranks.get(module, shape.rank), shape.scale(module))
            transformer.set_submodule(module, adapted)
            for side, matrix in (("A", adapted.lora_A), ("B", adapted.lora_B)):
                parameters[f"{module}.lora_{side}.weight"] = matrix.weight
    return parameters


def adapted_modules(tensors: Tensors) -> list[str]:
    """The names of the modules that an adapter changes, sorted."""
    return sorted(name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight"))


def weight_difference(
    tensors: Tensors, module: str, scale: float, device: torch.device | None = None
) -> Float[Tensor, "outputs inputs"]:
    """What the adapter adds to a module's weight: scale * B A, (out, in), computed on a device; None is the tensors' own.

    >>> tensors = {"m.lora_A.weight": torch.tensor([[1.0, 2.0]]), "m.lora_B.weight": torch.tensor([[3.0], [4.0]])}
    >>> weight_difference(tensors, "m", scale=0.5).tolist()
    [[1.5, 3.0], [2.0, 4.0]]
    """
    a, b = (on_device(tensors[f"{module}.lora_{side}.weight"], device) for side in "AB")
    return scale * b @ a
