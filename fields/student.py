"""What of the network is trained, how a published version becomes a network's weights, and what is taken home.

A student is a LoRA over the base, or the full network. Either way its trainable tensors are float32, whatever type the
network computes in: an update of a thousandth of a weight is lost in bfloat16, which has eight bits.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from fields.carriers import Tensors
from fields.families.base import Family
from fields.lora.adapter import Adapter, LoraShape, adapted_modules, add_lora, weight_difference
from fields.lora.formats import write_diffusers
from fields.lora.peft_files import CONFIG, read_adapter, write_adapter


class Student(ABC):
    """One kind of student."""

    adds_to_base: ClassVar[bool]  # whether a version is a difference from the base's weights

    @abstractmethod
    def attach(self, transformer: nn.Module, seed: int) -> dict[str, nn.Parameter]:
        """Make the network trainable, on its device; returns the float32 parameters by name.

        A fresh student computes what the base does, to the last bit. `seed` decides what is random about it.

        Raises:
            ValueError: if the network doesn't have what is to be trained.
        """

    @abstractmethod
    def refresh(self, transformer: nn.Module, parameters: Mapping[str, Float[Tensor, "..."]]) -> None:
        """Let the network compute with the parameters as they are now."""

    @abstractmethod
    def changed(self, tensors: Tensors) -> list[str]:
        """The names of the network's own weights that a version changes."""

    @abstractmethod
    def weight(self, name: str, base: Float[Tensor, "..."], tensors: Tensors) -> Float[Tensor, "..."]:
        """What a weight of the base becomes with a version's tensors, float32."""

    @abstractmethod
    def save(self, path: Path, family: Family, transformer: nn.Module, tensors: Tensors) -> None:
        """Write a folder that others load, and that `read_student` reads."""


@dataclass(frozen=True, slots=True)
class LoraStudent(Student):
    """An adapter over the frozen base."""

    shape: LoraShape
    adds_to_base = True

    def attach(self, transformer: nn.Module, seed: int) -> dict[str, nn.Parameter]:
        parameters = add_lora(transformer, self.shape, seed)
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        return parameters

    def refresh(self, transformer: nn.Module, parameters: Mapping[str, Float[Tensor, "..."]]) -> None:
        """Nothing to do: the network's adapter layers hold these very parameters."""

    def changed(self, tensors: Tensors) -> list[str]:
        return [f"{module}.weight" for module in adapted_modules(tensors)]

    def weight(self, name: str, base: Float[Tensor, "..."], tensors: Tensors) -> Float[Tensor, "..."]:
        module = name.removesuffix(".weight")
        return base.float() + weight_difference(tensors, module, self.shape.scale(module), base.device)

    def save(self, path: Path, family: Family, transformer: nn.Module, tensors: Tensors) -> None:
        adapter = Adapter(self.shape, tensors)
        write_adapter(path, adapter)
        write_diffusers(path, adapter)


@dataclass(frozen=True, slots=True)
class FullStudent(Student):
    """Every parameter of the network."""

    adds_to_base = False

    def attach(self, transformer: nn.Module, seed: int) -> dict[str, nn.Parameter]:
        masters = {}
        for name, parameter in transformer.named_parameters():
            parameter.requires_grad_(True)
            masters[name] = parameter
            if parameter.dtype != torch.float32:
                masters[name] = nn.Parameter(parameter.detach().float())
                parameter.register_post_accumulate_grad_hook(partial(_hand_over, masters[name]))
        return masters

    @torch.no_grad()
    def refresh(self, transformer: nn.Module, parameters: Mapping[str, Float[Tensor, "..."]]) -> None:
        for name, parameter in transformer.named_parameters():
            if parameter is not parameters[name]:
                parameter.copy_(parameters[name])

    def changed(self, tensors: Tensors) -> list[str]:
        return sorted(tensors)

    def weight(self, name: str, base: Float[Tensor, "..."], tensors: Tensors) -> Float[Tensor, "..."]:
        return tensors[name]

    def save(self, path: Path, family: Family, transformer: nn.Module, tensors: Tensors) -> None:
        family.export(transformer, tensors, path)


def _hand_over(master: nn.Parameter, parameter: Tensor) -> None:
    """Add a low-precision parameter's gradient to its master's, where the sum over groups is float32."""
    assert parameter.grad is not None
    gradient = parameter.grad.float()
    master.grad = gradient if master.grad is None else master.grad + gradient
    parameter.grad = None


def read_student(path: Path, names: Sequence[str]) -> Tensors:
    """The trainable tensors in a folder that a student saved.

    Args:
        path: the folder.
        names: of the trainable tensors; an exported network has others too.
    """
    if (path / CONFIG).is_file():
        return read_adapter(path).tensors
    (file,) = (file for file in path.glob("*model.safetensors"))
    tensors = load_file(file)
    return {name: tensors[name] for name in names}
