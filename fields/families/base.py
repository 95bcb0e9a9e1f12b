"""What a model family gives; the rest of the system doesn't know which one it is."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from safetensors.torch import save_file
from torch import Tensor, nn

from fields.carriers import Condition, Tensors
from fields.dataset import Row


class Family(ABC):
    """One kind of model as a velocity field: loading, conditioning, time, sign and packing are settled here."""

    name: ClassVar[str]
    latent_shape: ClassVar[tuple[int, ...]]
    default_lora_targets: ClassVar[tuple[str, ...]]
    encodes_batches: ClassVar[bool] = (
        False  # whether rows encoded together have the conditions they have alone, to the last bit
    )

    @abstractmethod
    def load_transformer(self, path: Path) -> nn.Module:
        """The frozen network in evaluation mode.

        Raises:
            ValueError: if the folder doesn't hold such a model; says what is missing.
        """

    def export(self, transformer: nn.Module, tensors: Tensors, path: Path) -> None:
        """Write a folder that `load_transformer` reads: the network with its weights replaced by `tensors`.

        This is the folder of a network of diffusers; what another library's network needs, its family says.
        """
        transformer.save_config(path)  # type: ignore[operator]
        state = {**transformer.state_dict(), **tensors}
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path / "diffusion_pytorch_model.safetensors")

    @abstractmethod
    def encode(self, rows: Sequence[Row]) -> Condition:
        """Prompts and source images as the network's conditions, one row each.

        Raises:
            ValueError: for a row that cannot be encoded; names it.
        """

    @abstractmethod
    def clean(self, rows: Sequence[Row]) -> Tensor:
        """The rows' target images as clean states x_0, float32 (batch, *latent_shape).

        Raises:
            ValueError: for a row without a target image, or one that cannot be encoded; names it.
        """

    def with_clean(self, condition: Condition, rows: Sequence[Row]) -> Condition:
        """The rows' condition with their target images as clean states."""
        return replace(condition, clean=self.clean(rows))

    @abstractmethod
    def velocity(self, transformer: nn.Module, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """dx/dt = eps - x_0 at (x_t, t), t in [0, 1] with 1 = noise; shapes (batch, *latent_shape), (batch,)."""

    @abstractmethod
    def decode(self, x_0: Tensor) -> np.ndarray:
        """Clean states as images, float32 (batch, 3, H, W), [0, 1] up to the model's own overshoot."""
