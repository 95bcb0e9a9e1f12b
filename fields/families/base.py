"""What a model family gives; the rest of the system doesn't know which one it is."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor, nn

from fields.carriers import Condition, Tensors
from fields.data.rows import Row
from fields.data.size import Size
from fields.families.latents import LatentSpace
from fields.families.quantization import Quantization
from fields.method.time_grid import Grid, time_grid
from fields.operators import Expression, Guidance
from fields.operators.guidance import ALWAYS, Against, Interval


class Family(ABC):
    """One kind of model as a velocity field: loading, conditioning, time, sign and packing are settled here.

    Args:
        path: folder or hub id of the base; what encodes, decodes and sets the time grid is read from there.
        dtype: in which networks compute. States and times are float32 whatever it is.
        size: of images or clips whose row doesn't say; None is the family's own.
        device: where `encode` and `decode` compute.

    Attributes:
        source: whether rows have a source image: never, where they like, or always.

    Raises:
        ValueError: for a dtype or size that the family doesn't have.
    """

    name: ClassVar[str]
    source: ClassVar[Literal["none", "optional", "required"]] = "optional"
    own_size: ClassVar[Size]
    # Of the paper's release, else of diffusers' examples, else of other trainers.
    default_lora_targets: ClassVar[tuple[str, ...]]
    published_latents: ClassVar[str]  # the latent space of the family's published models, as docs/experts.md calls it
    encodes_batches: ClassVar[bool] = (
        False  # whether rows encoded together have the conditions they have alone, to the last bit
    )
    passed_over: ClassVar[tuple[str, ...]] = ()  # lists of modules that a forward may leave out
    truncated_prompts: int = 0  # prompts encoded so far that were longer than the encoder reads

    def __init__(
        self,
        path: Path | None = None,
        dtype: torch.dtype = torch.float32,
        size: Size | None = None,
        device: torch.device | None = None,
    ):
        self.path = path
        self.dtype = dtype
        self.default_size = size or self.own_size
        self.device = device or torch.device("cpu")

    @property
    def most_sources(self) -> int:
        """Source images that a row may have, if it has one."""
        return 1

    @abstractmethod
    def load_encoders(self) -> None:
        """Load what `encode` and `decode` compute with, which they otherwise do at their first call.

        Raises:
            ValueError: if the base doesn't hold it; says what is missing.
        """

    @abstractmethod
    def load_transformer(self, path: Path, quantization: Quantization = "none") -> nn.Module:
        """The frozen network in evaluation mode, its weights in this kind of bits.

        Raises:
            ValueError: if the folder doesn't hold such a model, or what quantizes isn't installed; says what is missing.
        """

    def export(self, transformer: nn.Module, tensors: Tensors, path: Path) -> None:
        """Write a folder that `load_transformer` reads: the network with its weights replaced by `tensors`.

        This is the folder of a network of diffusers; what another library's network needs, its family says.
        """
        network: Any = transformer  # of diffusers, and so it can write its configuration
        network.save_config(path)
        state = {**transformer.state_dict(), **tensors}
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path / "diffusion_pytorch_model.safetensors")

    @abstractmethod
    def blueprint(self, path: Path, quantization: Quantization = "none") -> nn.Module:
        """The network without values, on the meta device and in the types that it computes in, from its configuration alone.

        Raises:
            ValueError: if the folder has no such configuration, or what quantizes isn't installed.
        """

    @abstractmethod
    def untrained(self, path: Path) -> nn.Module:
        """The network of a folder's configuration with random weights, which its constructor draws from torch's generator.

        Raises:
            ValueError: if the folder has no such configuration.
        """

    def encoder_bytes(self) -> int:
        """Bytes of the weights of everything that encodes and decodes.

        Raises:
            ValueError: if the base has no configuration of these.
        """
        return 0

    def encoding_passes(self, size: Size, sources: int) -> Iterator[Callable[[], object]]:
        """What `encode` and `decode` compute for a row of the greatest length, one network after the other, on networks without
        values; none where no network encodes.

        Args:
            size: of the images or clips.
            sources: source images of the row.
        """
        return iter(())

    def recompute_activations(self, transformer: nn.Module) -> None:
        """Let the network's backward compute each block's activations again instead of keeping them."""
        network: Any = transformer  # every network of diffusers can
        network.enable_gradient_checkpointing()

    def blocks(self, transformer: nn.Module) -> list[nn.Module]:
        """The network's repeated blocks, which every forward computes: what its own lists of modules hold."""
        lists = {name: child for name, child in transformer.named_children() if isinstance(child, nn.ModuleList)}
        return [block for name, blocks in lists.items() if name not in self.passed_over for block in blocks]

    def skeleton(self, path: Path) -> nn.Module:
        """The network for checks of names and shapes; a family of large models leaves its values out.

        Raises:
            ValueError: if the folder doesn't hold such a model, whole; says what is missing.
        """
        return self.load_transformer(path)

    def size(self, row: Row) -> Size:
        """Of the image or the clip that a row asks for."""
        return self.default_size.asked(row.width, row.height, row.frames)

    @property
    @abstractmethod
    def latent_space(self) -> LatentSpace:
        """What the values of a state mean: models in which they mean the same can teach one another.

        Raises:
            ValueError: if the base doesn't say.
        """

    @abstractmethod
    def latent_shape(self, size: Size | None = None) -> tuple[int, ...]:
        """The shape of one state, for images or clips of a size; None is the default size.

        An image's is (channels, height, width) in every family, a clip's (channels, latent frames, height, width).
        """

    @abstractmethod
    def grid(self, size: Size | None, steps: int) -> Float[Tensor, " points"]:
        """The model's own times t_0 = 1 > ... > t_N = 0 of an N-step rollout, float32 (N + 1,)."""

    def times(self, steps: int, shift: float | None) -> Grid:
        """The times of an N-step rollout by size: the model's own, or, for every size, those of one shift."""
        return cache(lambda size: self.grid(size, steps) if shift is None else time_grid(steps, shift))

    def guidance(self, of: Expression, scale: float, against: Against = "empty", interval: Interval = ALWAYS) -> Expression:
        """What the model's own pipeline makes of a field and a guidance scale.

        Args:
            of: the field.
            scale: as the pipeline counts it.
            against: what the worse branch has for a prompt.
            interval: of t, ends included, outside of which the field is not guided.

        Raises:
            ValueError: if the model cannot be guided so.
        """
        return Guidance(of, scale, interval, against)

    @property
    def makes_clips(self) -> bool:
        """Whether its answers may have several frames."""
        return self.own_size.frames > 1

    def extent(self, size: Size) -> int:
        """How much there is to compute: pixels, of every frame that a state has."""
        return size.width * size.height

    def check_frames(self, row: Row) -> None:
        """Refuse frames that the family doesn't make.

        Raises:
            ValueError: for a clip, where the family makes single images; names the row.
        """
        if (frames := self.size(row).frames) != 1:
            raise ValueError(f"row {row.uid!r} asks for a clip of {frames} frames; family {self.name} makes single images")

    def check_row(self, row: Row, with_target: bool = False) -> None:
        """What can be told of a row, and of its target image where that is read, before anything is loaded.

        Raises:
            ValueError: for a row that cannot be encoded; names it.
        """
        self.check_sources(row)
        self.encode([row])
        if with_target:
            self.clean([row])

    def check_sources(self, row: Row) -> None:
        """Whether the model takes as many source images as a row has.

        Raises:
            ValueError: names the row.
        """
        if not row.sources and self.source == "required":
            raise ValueError(f"row {row.uid!r} has no source image; family {self.name} edits one")
        if row.sources and self.source == "none":
            raise ValueError(f"row {row.uid!r} has a source image; family {self.name} takes none")
        if len(row.sources) > self.most_sources:
            has = f"row {row.uid!r} has {len(row.sources)} source images"
            raise ValueError(f"{has}; family {self.name} takes {self.most_sources} at most")

    @abstractmethod
    def encode(self, rows: Sequence[Row]) -> Condition:
        """Prompts and source images as the network's conditions, one row each; the result must not depend on the other rows.

        Raises:
            ValueError: for a row that cannot be encoded; names it.
        """

    @abstractmethod
    def widest_inputs(self, batch: int, size: Size, sources: int) -> Tensors:
        """The condition's tensors for prompts of the greatest length, without values: on the meta device, but for those that
        say what of a row is there, which hide nothing.

        Args:
            batch: number of rows.
            size: of the images or clips.
            sources: source images of each row.
        """

    @abstractmethod
    def clean(self, rows: Sequence[Row]) -> Float[Tensor, "batch ..."]:
        """The rows' target images as clean states x_0, float32 (batch, *latent_shape).

        Raises:
            ValueError: for a row without a target image, or one that cannot be encoded; names it.
        """

    def with_clean(self, condition: Condition, rows: Sequence[Row]) -> Condition:
        """The rows' condition with their target images as clean states."""
        return replace(condition, clean=self.clean(rows))

    @abstractmethod
    def velocity(
        self, transformer: nn.Module, x_t: Float[Tensor, "batch ..."], t: Float[Tensor, " batch"], condition: Condition
    ) -> Float[Tensor, "batch ..."]:
        """dx/dt = eps - x_0 at (x_t, t), t in [0, 1] with 1 = noise; shapes (batch, *latent_shape), (batch,)."""

    @abstractmethod
    def decode(self, x_0: Float[Tensor, "batch ..."]) -> Float[np.ndarray, "batch 3 *image_frames rows columns"]:
        """Clean states as images (batch, 3, H, W) or clips (batch, 3, frames, H, W), float32, [0, 1] up to overshoot."""
