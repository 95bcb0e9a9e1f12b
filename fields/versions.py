"""How a rollout's network becomes a published version of the student: merged into its weights, or beside them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fields.carriers import Tensors
from fields.lora.adapter import LoraShape, add_lora
from fields.lora.linear import freeze_adapters
from fields.student import Student
from fields.tensors import load_into


class Versions(ABC):
    """A network that takes one version of the student after the other; none leaves anything behind.

    Args:
        transformer: the frozen base, without an adapter.

    Attributes:
        beside: what a version brings beside the base's weights; ranks that share these keep it whole.
    """

    def __init__(self, transformer: nn.Module):
        self.transformer = transformer
        self.beside: Mapping[str, nn.Parameter] = {}

    @abstractmethod
    def load(self, tensors: Tensors | None) -> None:
        """Become the version with these trainable tensors; None is the bare base.

        Raises:
            ValueError: if the tensors don't fit the student.
        """


class Merged(Versions):
    """A version's weights in place of the base's, rounded to the network's type.

    An adapter then costs no matrix products of its own at a rollout's forwards. The base's weights are kept.
    """

    def __init__(self, transformer: nn.Module, student: Student):
        super().__init__(transformer)
        self._student = student
        self._pristine: dict[str, Tensor] = {}

    @torch.no_grad()
    def load(self, tensors: Tensors | None) -> None:
        for name, pristine in self._pristine.items():
            self.transformer.get_parameter(name).data.copy_(pristine)
        if tensors is None:
            return
        for name in self._student.changed(tensors):
            weight = self.transformer.get_parameter(name).data
            if name not in self._pristine:
                kept_on = weight.device if self._student.adds_to_base else torch.device("cpu")
                self._pristine[name] = weight.to(kept_on, copy=True)
            weight.copy_(self._student.weight(name, self._pristine[name], tensors))


class Unmerged(Versions):
    """An adapter's own products beside the base's: to the last bit what the learner computes, and what is delivered.

    Merging rounds W + s B A to the network's type, which in bfloat16 loses most of a small adapter.

    Raises:
        ValueError: if a target of the shape matches no module.
    """

    def __init__(self, transformer: nn.Module, shape: LoraShape):
        super().__init__(transformer)
        self.beside = add_lora(transformer, shape, seed=0)  # any: a version brings A and B
        freeze_adapters(transformer)
        transformer.requires_grad_(False)

    @torch.no_grad()
    def load(self, tensors: Tensors | None) -> None:
        if tensors is not None:
            load_into(self.beside, tensors, "a published version")
            return
        for parameter in self.beside.values():
            parameter.zero_()
