"""What the families of `diffusers` pipelines share: loading part by part, encoding row by row, the scheduler's time grid."""

import importlib
import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fields.carriers import Condition
from fields.dataset import Row, decode_image, to_bytes
from fields.families.base import Family
from fields.families.folder import INDEX, check_class, check_components, check_weights, fetch, read_json
from fields.schedule import Size

Named = dict[str, Tensor]

_TRANSFORMER, _VAE, _SCHEDULER = "transformer", "vae", "scheduler"
_EULER = "FlowMatchEulerDiscreteScheduler"
_log = logging.getLogger(__name__)


class PipelineFamily(Family):
    """A model in the folder of a `diffusers` pipeline, with its transformer as the network.

    The transformer alone is what students and experts load. Text encoders and VAE are loaded when `encode` or `decode`
    first runs, by the model's own pipeline class, which also encodes: its templates, padding and layers are its own.

    Attributes:
        pipelines: classes of pipelines that the family takes, as model_index.json names them.
        encoder_class: the pipeline class that encodes; None is the folder's own.
        transformer_class: class of the network.
        vae_class: class of the VAE.
        source: whether a row has a source image.
        tokenizer: the component that decides how long a prompt may be.
        max_tokens: of a prompt; None reads all.
        spaces_itself: the model's pipeline gives its scheduler the number of steps alone.
    """

    pipelines: ClassVar[tuple[str, ...]]
    encoder_class: ClassVar[str | None] = None
    transformer_class: ClassVar[str]
    vae_class: ClassVar[str] = "AutoencoderKL"
    source: ClassVar[Literal["none", "optional", "required"]] = "none"
    tokenizer: ClassVar[str] = "tokenizer"
    max_tokens: ClassVar[int | None]
    spaces_itself: ClassVar[bool] = False
    own_size = (1024, 1024)

    truncated_prompts = 0  # prompts encoded so far that were longer than the encoder reads

    @abstractmethod
    def texts(self, prompt: str, negative: str, source: Image.Image | None) -> tuple[Named, Named]:
        """One prompt's and one negative prompt's tensors, batch 1: what `Condition` holds and what replaces it."""

    @abstractmethod
    def call(self, transformer: nn.Module, x_t: Tensor, t: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """The network's velocity for states and conditions in its own dtype; t is float32."""

    def source_latents(self, source: Image.Image) -> Tensor:
        """A source image's clean state, batch 1, by the VAE."""
        raise NotImplementedError(f"family {self.name} takes no source image")

    @abstractmethod
    def decode_latents(self, x_0: Tensor) -> Tensor:
        """Clean states (batch, *latent_shape) as images (batch, 3, H, W) in [-1, 1]."""

    def count_tokens(self, prompt: str) -> int:
        """How many tokens the encoder would have to read."""
        return len(getattr(self.encoders, self.tokenizer)(prompt).input_ids)

    def load_transformer(self, path: Path) -> nn.Module:
        self.skeleton(path)
        options = {"dtype": self.dtype, "use_safetensors": True, "local_files_only": True}
        network = _class(self.transformer_class).from_pretrained(self._transformer_folder(path), **options)
        return network.eval().requires_grad_(False)

    def skeleton(self, path: Path) -> nn.Module:
        """The network without its values, compared with the headers of the files; a local pipeline must be complete."""
        from accelerate import init_empty_weights

        folder = self._transformer_folder(path)
        if path.is_dir() and (path / INDEX).is_file():
            check_components(path, read_json(path / INDEX))
        config = read_json(folder / "config.json")
        check_class(folder, config, self.name, (self.transformer_class,))
        kind = _class(self.transformer_class)
        with init_empty_weights():
            network = kind.from_config(config)
        check_weights(folder, network, kind._keys_to_ignore_on_load_unexpected or ())
        return network.eval().requires_grad_(False)

    def _transformer_folder(self, path: Path) -> Path:
        """Of a pipeline's folder, or of a transformer's own, as an expert's checkpoint may be."""
        folder = fetch(path, (_TRANSFORMER,))
        if not (folder / INDEX).is_file() and (folder / "config.json").is_file():
            return folder
        check_class(folder, read_json(folder / INDEX), self.name, self.pipelines)
        return folder / _TRANSFORMER

    def config(self, part: str) -> dict[str, Any]:
        """The configuration of one part of the base."""
        name = "scheduler_config.json" if part == _SCHEDULER else "config.json"
        return read_json(fetch(self._base, (part,)) / part / name)

    @property
    def _base(self) -> Path:
        if self.path is None:
            raise ValueError(f"family {self.name} needs the path of its base")
        return self.path

    @cached_property
    def network_config(self) -> dict[str, Any]:
        return self.config(_TRANSFORMER)

    @cached_property
    def vae_config(self) -> dict[str, Any]:
        return self.config(_VAE)

    @property
    def vae_scale(self) -> int:
        """Pixels of an image per latent cell, along each side."""
        return 2 ** (len(self.vae_config["block_out_channels"]) - 1)

    @cached_property
    def vae(self) -> Any:
        folder = fetch(self._base, (_VAE,)) / _VAE
        options = {"dtype": self.dtype, "use_safetensors": True, "local_files_only": True}
        return _load(_class(self.vae_class), folder, options).to(self.device)

    @cached_property
    def encoders(self) -> Any:
        """The model's own pipeline without its transformer."""
        folder = fetch(self._base, ())
        index = read_json(folder / INDEX)
        check_class(folder, index, self.name, self.pipelines)
        folder = fetch(self._base, [name for name, kind in index.items() if isinstance(kind, list) and name != _TRANSFORMER])
        options = {"dtype": self.dtype, "use_safetensors": True, "local_files_only": True}
        kind = _class(self.encoder_class or index["_class_name"])
        return _load(kind, folder, options | self.given_parts(folder)).to(self.device)

    def given_parts(self, folder: Path) -> dict[str, Any]:
        """Components of the encoding pipeline that are not loaded from the folder as its index says."""
        return {_TRANSFORMER: None, _VAE: self.vae}

    def latent_shape(self, size: Size | None = None) -> tuple[int, ...]:
        width, height = size or self.default_size
        return self.network_config["in_channels"], height // self.vae_scale, width // self.vae_scale

    @property
    def multiple(self) -> int:
        """What an image's sides are multiples of: a latent cell, times the patch of the network."""
        return 2 * self.vae_scale

    @cached_property
    def scheduler(self) -> Any:
        folder = fetch(self._base, (_SCHEDULER,)) / _SCHEDULER
        check_class(folder, read_json(folder / "scheduler_config.json"), self.name, (_EULER,))
        return _class(_EULER).from_pretrained(folder)

    def grid(self, size: Size | None, steps: int) -> Tensor:
        """The times of the model's own scheduler, as its pipeline sets them; nothing is shifted on top."""
        spacing = {"num_inference_steps": steps} if self.spaces_itself else {"sigmas": np.linspace(1.0, 1 / steps, steps)}
        self.scheduler.set_timesteps(**spacing, mu=self.shift(size, steps))
        return self.scheduler.sigmas.float().clone()

    def shift(self, size: Size | None, steps: int) -> float:
        """mu of a shift that depends on the resolution: linear in the number of tokens; a static scheduler ignores it."""
        _, height, width = self.latent_shape(size)
        return self._shift_of_length(height // 2 * (width // 2))

    def _shift_of_length(self, tokens: int) -> float:
        from diffusers.pipelines.flux.pipeline_flux import calculate_shift

        given = {"base_seq_len": "base_image_seq_len", "max_seq_len": "max_image_seq_len"}
        given |= {name: name for name in ("base_shift", "max_shift")}
        config = self.scheduler.config
        return calculate_shift(tokens, **{name: config[key] for name, key in given.items() if config.get(key) is not None})

    def check_row(self, row: Row) -> None:
        width, height = self.size(row)
        if width < 1 or height < 1 or width % self.multiple or height % self.multiple:
            raise ValueError(f"row {row.uid!r}: its size is {width} x {height}; sides are multiples of {self.multiple}")
        if row.source_image is None and self.source == "required":
            raise ValueError(f"row {row.uid!r} has no source image; family {self.name} edits one")
        if row.source_image is not None:
            if self.source == "none":
                raise ValueError(f"row {row.uid!r} has a source image; family {self.name} takes none")
            decode_image(row.source_image, row.uid)

    @torch.no_grad()
    def encode(self, rows: Sequence[Row]) -> Condition:
        return Condition.concatenate([self._encode_row(row) for row in rows])

    def _encode_row(self, row: Row) -> Condition:
        self.check_row(row)
        self._check_length(row)
        source = self._source_of(row)
        prompt, negative = self.texts(row.prompt, row.negative_prompt or "", source)
        if source is not None:
            prompt["source"] = self.source_latents(source)
        return Condition(tensors=prompt, unconditional=negative)

    def _source_of(self, row: Row) -> Image.Image | None:
        """The source image in the row's size, so that the sources of one group share a shape too."""
        if row.source_image is None:
            return None
        image = Image.fromarray(to_bytes(decode_image(row.source_image, row.uid)))
        return image if image.size == self.size(row) else image.resize(self.size(row), Image.Resampling.LANCZOS)

    def _check_length(self, row: Row) -> None:
        if self.max_tokens is None or (tokens := self.count_tokens(row.prompt)) <= self.max_tokens:
            return
        self.truncated_prompts += 1
        if self.truncated_prompts == 1:
            _log.warning(
                "row %r: its prompt has %d tokens and %s reads %d; longer prompts are cut, and only counted from now on",
                *(row.uid, tokens, self.name, self.max_tokens),
            )

    def velocity(self, transformer: nn.Module, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        inputs = {n: v.to(self.dtype) if v.is_floating_point() else v for n, v in condition.tensors.items()}
        return self.call(transformer, x_t.to(self.dtype), t.float(), inputs).float()

    @torch.no_grad()
    def decode(self, x_0: Tensor) -> np.ndarray:
        images = [self.decode_latents(row[None].to(self.device, self.dtype)).float().cpu() for row in x_0]
        return (torch.cat(images) / 2 + 0.5).numpy()


def _class(name: str) -> Any:
    """A class of diffusers, which is imported when it is first needed: that takes seconds."""
    return getattr(importlib.import_module("diffusers"), name)


def _load(kind: Any, folder: Path, options: dict[str, Any]) -> Any:
    try:
        return kind.from_pretrained(folder, **options)
    except (OSError, ValueError, ImportError) as error:
        raise ValueError(f"{folder} doesn't load as a {kind.__name__}: {' '.join(str(error).split())}") from error
