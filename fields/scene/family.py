"""The scene world's small transformer as a family."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fields.carriers import Condition, Tensors
from fields.data.images import decode_image
from fields.data.rows import Row, target_of
from fields.data.size import Size
from fields.families.base import Family
from fields.families.latents import LatentSpace
from fields.families.quantization import Quantization
from fields.families.quantized import quantize
from fields.method.time_grid import time_grid
from fields.scene.eight_bits import from_eight_bits, in_eight_bits
from fields.scene.grammar import TEXT_LENGTH, tokenize
from fields.scene.transformer import SceneTransformer
from fields.scene.world import SIZE
from fields.shown import shown
from fields.tensors import check_shapes, shapes

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
_MOST = {"width": 4096, "depth": 64, "heads": 64}  # of a network that a file describes


class SceneFamily(Family):
    """States are images in [-1, 1]; the text encoder is a table of words inside the transformer."""

    name = "scene"
    own_size = Size(SIZE, SIZE)
    published_latents = "pixels"
    encodes_batches = True  # words are looked up and images decoded: no sums
    default_lora_targets = ("to_qkv", "to_out", "ff_in", "ff_out", "modulation", "patch_in", "patch_out")

    def __init__(
        self,
        path: Path | None = None,
        dtype: torch.dtype = torch.float32,
        size: Size | None = None,
        device: torch.device | None = None,
    ):
        super().__init__(path, dtype, size, device)
        if dtype != torch.float32:
            raise ValueError(f"dtype {str(dtype).removeprefix('torch.')}: the scene family computes in float32")
        if self.default_size != self.own_size:
            raise ValueError(f"size {self.default_size}: scenes are {SIZE} x {SIZE}")

    @property
    def latent_space(self) -> LatentSpace:
        return LatentSpace(settings={"pixels": "RGB in [-1, 1]"}, vae=None)

    def latent_shape(self, size: Size | None = None) -> tuple[int, ...]:
        return 3, SIZE, SIZE

    def grid(self, size: Size | None, steps: int) -> Float[Tensor, " points"]:
        return time_grid(steps)

    def check_row(self, row: Row, with_target: bool = False) -> None:
        self.check_frames(row)
        if (size := self.size(row)) != self.own_size:
            raise ValueError(f"row {row.uid!r}: its size is {size}; scenes are {SIZE} x {SIZE}")
        super().check_row(row, with_target)

    def untrained(self, path: Path) -> SceneTransformer:
        if not (path / CONFIG).is_file():
            raise ValueError(f"{path} is no scene model: it has no {CONFIG}")
        return _network(path)

    def blueprint(self, path: Path, quantization: Quantization = "none") -> SceneTransformer:
        network = self.untrained(path).to(torch.device("meta"))
        quantize(network, quantization)
        return network.eval().requires_grad_(False)

    def load_encoders(self) -> None:
        """Nothing to load: words are looked up, and images are states."""

    def load_transformer(self, path: Path, quantization: Quantization = "none") -> SceneTransformer:
        for name in (CONFIG, WEIGHTS):
            if not (path / name).is_file():
                raise ValueError(f"{path} is no scene model: it has no {name}")
        transformer = _network(path)
        try:
            tensors = from_eight_bits(load_file(path / WEIGHTS))
        except SafetensorError as error:
            raise ValueError(f"{path} is no scene model: {error}") from error
        check_shapes(shapes(tensors), shapes(transformer.state_dict()), str(path / WEIGHTS))
        transformer.load_state_dict(tensors)
        quantize(transformer, quantization)
        return transformer.eval().requires_grad_(False)

    def export(self, transformer: nn.Module, tensors: Tensors, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        (path / CONFIG).write_text(json.dumps(transformer.config, indent=2) + "\n")
        save_file(
            {name: tensor.contiguous() for name, tensor in {**transformer.state_dict(), **tensors}.items()}, path / WEIGHTS
        )

    def widest_inputs(self, batch: int, size: Size, sources: int) -> Tensors:
        tensors = {"words": torch.empty(batch, TEXT_LENGTH, dtype=torch.long, device="meta")}
        return tensors | ({"source": torch.empty(batch, 3, SIZE, SIZE, device="meta")} if sources else {})

    def encode(self, rows: Sequence[Row]) -> Condition:
        words = torch.stack([torch.from_numpy(_words(row.uid, row.prompt)) for row in rows])
        tensors = {"words": words}
        if sources := [(row.source_image, row.uid) for row in rows if row.source_image is not None]:
            if len(sources) != len(rows):
                raise ValueError(f"one batch mixes rows with and without a source image: {sources[0][1]!r} has one")
            tensors["source"] = torch.from_numpy(np.stack([_image(image, uid, "source") for image, uid in sources]))
        negative = [_words(row.uid, row.negative_prompt) for row in rows if row.negative_prompt is not None]
        if 0 < len(negative) < len(rows):
            raise ValueError(f"one batch mixes rows with and without a negative prompt: {', '.join(row.uid for row in rows)}")
        return Condition(
            tensors=tensors,
            unconditional={"words": torch.zeros_like(words)},
            negative={"words": torch.from_numpy(np.stack(negative))} if negative else {},
            source_names=("source",) if sources else (),
        )

    def clean(self, rows: Sequence[Row]) -> Float[Tensor, "batch 3 24 24"]:
        pairs = ((target, row) for row in rows for target in target_of(row, 1))
        return torch.from_numpy(np.stack([_image(image, row.uid, "target") for image, row in pairs]))

    def velocity(
        self, transformer: nn.Module, x_t: Float[Tensor, "batch 3 24 24"], t: Float[Tensor, " batch"], condition: Condition
    ) -> Float[Tensor, "batch 3 24 24"]:
        return transformer(x_t, t, condition.tensors["words"], condition.tensors.get("source"))

    def decode(self, x_0: Float[Tensor, "batch 3 24 24"]) -> Float[np.ndarray, "batch 3 24 24"]:
        return ((x_0.float() + 1) / 2).cpu().numpy()


def _network(path: Path) -> SceneTransformer:
    """A fresh network of the sizes in a folder's configuration.

    Raises:
        ValueError: if they are no sizes of a scene model.
    """
    try:
        sizes = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        within = {name: 0 < sizes.get(name, 1) <= most for name, most in _MOST.items()}
        width, heads = sizes.get("width", 128), sizes.get("heads", 4)
        if not all(within.values()) or width % heads or width % 4:
            raise ValueError(f"its {CONFIG} says {shown(sizes)}; allowed are at most {_MOST}, and a width of whole heads")
        return SceneTransformer(**sizes)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is no scene model: {error}") from error


def _words(uid: str, prompt: str) -> np.ndarray:
    try:
        return tokenize(prompt)
    except ValueError as error:
        raise ValueError(f"row {uid!r}: {error}") from error


def _image(data: bytes, uid: str, which: str) -> np.ndarray:
    image = decode_image(data, uid)
    if image.shape != (3, SIZE, SIZE):
        raise ValueError(f"row {uid!r}: its {which} image is {image.shape[2]} x {image.shape[1]}, not {SIZE} x {SIZE}")
    return image * 2 - 1


def save_transformer(transformer: SceneTransformer, path: Path, eight_bits: bool = False) -> None:
    """Write the folder that `load_transformer` reads, in float16, or with matrices of eight bits per weight."""
    tensors = {name: tensor.half() for name, tensor in transformer.state_dict().items()}
    SceneFamily().export(transformer, in_eight_bits(tensors) if eight_bits else tensors, path)
