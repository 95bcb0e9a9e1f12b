"""Adapters of several experts over one network, chosen row by row.

PEFT chooses an adapter for a whole module: state that calls would have to take turns with. Single rows it reaches by a loop
over adapters. Here a layer holds the adapters of all experts as one stack, and a batch brings each row's number.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fields.lora.adapter import Adapter, adapted_modules, linear_modules
from fields.lora.linear import as_computed
from fields.tensors import Shapes, check_shapes, shapes

BASE = -1  # the number of no adapter


class RowsAreNoSamples(Exception):
    """A layer's rows are not the batch's samples (tokens were flattened, say): adapters cannot be chosen by row."""


class Choice:
    """The adapter of each sample in the batch that the network computes now; all layers of a network look here."""

    def __init__(self) -> None:
        self.adapters: Int[Tensor, " batch"] = torch.empty(0, dtype=torch.long)
        self.only: int | None = BASE

    def choose(self, adapters: Int[Tensor, " batch"]) -> None:
        """Take these adapters until the next choice; a batch of one adapter is remembered as such."""
        self.adapters = adapters
        first = int(adapters[0])
        self.only = first if bool((adapters == first).all()) else None


class StackedLora(nn.Module):
    """A linear module with the adapters of all experts: y = W x + b + B_k A_k x, k chosen by row.

    Args:
        linear: the frozen module.
        a: (adapters, rank, in).
        b: (adapters, out, rank), scale included. Both are computed in the type of the module's weight.
        choice: shared by the network's layers.
    """

    def __init__(self, linear: nn.Linear, a: Float[Tensor, "k rank n"], b: Float[Tensor, "k m rank"], choice: Choice):
        super().__init__()
        self.linear = linear
        self.choice = choice
        # No buffers: ranks that share a network share these too.
        self.a, self.b = (nn.Parameter(as_computed(matrices, linear), requires_grad=False) for matrices in (a, b))

    @property
    def weight(self) -> Float[Tensor, "outputs inputs"]:
        """The frozen weight: networks look up its type."""
        return self.linear.weight

    def forward(self, x: Float[Tensor, "... inputs"]) -> Float[Tensor, "... outputs"]:
        y = self.linear(x)
        if self.choice.only == BASE:
            return y
        if self.choice.only is not None:
            added = x @ self.a[self.choice.only].to(x.dtype).T @ self.b[self.choice.only].to(x.dtype).T
        else:
            added = self._by_row(x, self.choice.adapters).reshape(y.shape)
        return y + added

    def _by_row(self, x: Tensor, adapters: Int[Tensor, " batch"]) -> Tensor:
        if len(x) != len(adapters):
            raise RowsAreNoSamples(f"{len(x)} rows of {len(adapters)} samples")
        some = (adapters != BASE)[:, None, None]
        a, b = (matrices[adapters.clamp(min=0)].to(x.dtype) for matrices in (self.a, self.b))
        rows = x.reshape(len(x), -1, x.shape[-1])
        return torch.where(some, torch.bmm(torch.bmm(rows, a.transpose(1, 2)), b.transpose(1, 2)), 0.0)


def stack_adapters(transformer: nn.Module, adapters: Mapping[str, Adapter]) -> Choice:
    """Put adapters into a network, side by side and numbered in their order; returns what chooses among them.

    Raises:
        ValueError: if an adapter doesn't fit the network; lists what doesn't.
    """
    for name, adapter in adapters.items():
        check_shapes(shapes(adapter.tensors), _fitting(transformer, adapter), f"expert {name!r}")
    choice = Choice()
    for module in sorted({module for adapter in adapters.values() for module in adapted_modules(adapter.tensors)}):
        linear = transformer.get_submodule(module)
        assert isinstance(linear, nn.Linear)
        transformer.set_submodule(module, StackedLora(linear, *_stack(module, linear, list(adapters.values())), choice))
    return choice


def _stack(module: str, linear: nn.Linear, adapters: Sequence[Adapter]) -> tuple[Tensor, Tensor]:
    """The A and B of one module; ranks are filled up with zeros, and an adapter without the module is all zeros."""
    pairs = [[adapter.tensors.get(f"{module}.lora_{side}.weight") for side in "AB"] for adapter in adapters]
    rank = max(len(a) for a, _ in pairs if a is not None)
    stack_a, stack_b = torch.zeros(len(pairs), rank, linear.in_features), torch.zeros(len(pairs), linear.out_features, rank)
    for k, (a, b) in enumerate(pairs):
        if a is not None and b is not None:
            stack_a[k, : len(a)] = a
            stack_b[k, :, : len(a)] = adapters[k].shape.scale(module) * b
    return stack_a, stack_b


def _fitting(transformer: nn.Module, adapter: Adapter) -> Shapes:
    """The shapes that the adapter's tensors must have in this network."""
    fitting: dict[str, tuple[int, ...]] = {}
    for module in set(adapted_modules(adapter.tensors)) & set(linear_modules(transformer)):
        linear = transformer.get_submodule(module)
        assert isinstance(linear, nn.Linear)
        rank = len(adapter.tensors[f"{module}.lora_A.weight"])
        fitting |= {
            f"{module}.lora_A.weight": (rank, linear.in_features),
            f"{module}.lora_B.weight": (linear.out_features, rank),
        }
    return fitting
