"""What the families of `diffusers` pipelines share: encoding row by row, the scheduler's time grid, dtypes."""

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from PIL import Image
from torch import Tensor, nn

from fields.carriers import DISTILLED_GUIDANCE, Condition, Tensors
from fields.data.columns import MOST_SOURCES
from fields.data.images import decode_image, to_bytes
from fields.data.rows import Row, target_of
from fields.data.size import Size
from fields.families.guidance import DistilledGuidance
from fields.families.parts import PipelineParts
from fields.method.time_grid import time_grid
from fields.operators import Expression
from fields.operators.guidance import ALWAYS, Against, Interval

Named = dict[str, Tensor]


def blank(*shape: int) -> Shaped[Tensor, "1 ..."]:
    """One row without values."""
    return torch.empty(1, *shape, device="meta")


def nothing_hidden(tokens: int) -> Bool[Tensor, "1 tokens"]:
    """The mask of a text without padding; it has its values, because networks look at them."""
    return torch.ones(1, tokens, dtype=torch.bool)


def _read_text(network: nn.Module, tokens: int) -> object:
    """A text encoder's forward of so many tokens, or of as many as it has positions for."""
    config: Any = network.config
    most = getattr(config.get_text_config(), "max_position_embeddings", None) or tokens
    ids = torch.zeros(1, min(tokens, most), dtype=torch.long, device="meta")
    return network(input_ids=ids, output_hidden_states=True)


Latents = Float[Tensor, "batch channels height width"]
ClipLatents = Float[Tensor, "batch channels *frames height width"]  # of images or of clips
Images = Sequence[Image.Image]  # a row's source images
Pixels = Float[Tensor, "batch 3 image_height image_width"]
ClipPixels = Float[Tensor, "batch 3 *image_frames image_height image_width"]

_log = logging.getLogger(__name__)


class PipelineFamily(PipelineParts):
    """A model whose own pipeline class encodes, so that templates, padding and layers are the model's own.

    Attributes:
        tokenizer: the component that decides how long a prompt may be.
        max_tokens: of a prompt; None reads all.
        distilled_scale: the guidance scale that a guidance-distilled network takes as an input where no operator sets one.
        text_sees_source: whether a text depends on what source images show, and not only on how many there are.
        scheduler_spaces_times: whether the model's pipeline gives its scheduler the number of steps alone, not the times.
        multistep_solver: a scheduler that folders may name instead of Euler's, whose shift the rollout then has.
    """

    source = "none"
    tokenizer: ClassVar[str] = "tokenizer"
    max_tokens: ClassVar[int | None]
    distilled_scale: ClassVar[float | None] = None
    text_sees_source: ClassVar[bool] = False
    scheduler_spaces_times: ClassVar[bool] = False
    multistep_solver: ClassVar[str | None] = None
    own_size = Size(1024, 1024)

    @abstractmethod
    def text(self, prompt: str, sources: Images) -> Named:
        """A prompt's tensors, batch 1, by the names that `call` reads."""

    @property
    def longest_prompt(self) -> int:
        """Tokens of a prompt of the greatest length; where nothing is cut, of one as long as others read."""
        return 512 if self.max_tokens is None else self.max_tokens

    @abstractmethod
    def widest_text(self, size: Size, sources: int) -> Named:
        """What `text` gives for a prompt of the greatest length, without values."""

    def widest_source(self, size: Size) -> Named:
        """What `source_tensors` gives, without values."""
        return {"source": blank(*self.latent_shape(size))}

    def widest_inputs(self, batch: int, size: Size, sources: int) -> Tensors:
        named = self.widest_text(size, sources)
        for n in range(sources):
            named |= _numbered(self.widest_source(size), n)
        if self.guidance_is_distilled:
            named |= {DISTILLED_GUIDANCE: blank()}
        return {name: tensor.expand(batch, *tensor.shape[1:]) for name, tensor in named.items()}

    def encoding_passes(self, size: Size, sources: int) -> Iterator[Callable[[], object]]:
        """Of every text encoder, and of the VAE there and back; what sees a source image beside the VAE is smaller than it."""
        tokens = self.widest_text(size, sources)["text"].shape[1]
        for network in self.encoder_blueprints.values():
            if getattr(network, "main_input_name", "") == "input_ids":
                yield partial(_read_text, network, tokens)
        vae = self.encoder_blueprints["vae"]
        planned = type(self)(self.path, self.dtype, size, torch.device("meta"))
        planned.vae, planned.encoders = vae, planned.encoding_pipeline(vae)
        yield lambda: planned.target_latents([Image.new("RGB", size.image)] * size.frames)
        yield lambda: planned.decode_latents(blank(*self.latent_shape(size)).to(self.dtype))

    def negative_text(self, prompt: str, sources: Images) -> Named:
        """A negative prompt's, which replace those of `text` where the prompt is dropped."""
        return self.text(prompt, sources)

    @abstractmethod
    def call(self, transformer: nn.Module, x_t: ClipLatents, t: Float[Tensor, " batch"], inputs: Tensors) -> ClipLatents:
        """The network's velocity for states and conditions in its own dtype; t is float32."""

    def image_latents(self, image: Image.Image) -> Latents:
        """An image's clean state, batch 1, by the VAE; its mean, where it answers a distribution."""
        config = self.vae.config
        return (self.vae.encode(self.pixels(image)).latent_dist.mode() - config.shift_factor) * config.scaling_factor

    def target_latents(self, frames: Images) -> ClipLatents:
        """The clean state, batch 1, of one image; in a family of clips, also of several frames."""
        (image,) = frames
        return self.image_latents(image)

    def source_tensors(self, image: Image.Image) -> Named:
        """A source image's tensors, batch 1, by the names that `call` reads."""
        return {"source": self.image_latents(image)}

    def pixels(self, image: Image.Image) -> Pixels:
        """What a VAE sees: (1, 3, H, W) in [-1, 1]."""
        values = torch.from_numpy(np.asarray(image, dtype=np.float32)).permute(2, 0, 1)[None]
        return (values / 127.5 - 1).to(self.device, self.dtype)

    def decode_latents(self, x_0: Latents) -> ClipPixels:
        """Clean states (batch, *latent_shape) as images (batch, 3, H, W), or clips (batch, 3, frames, H, W), in [-1, 1]."""
        config = self.vae.config
        return self.vae.decode(x_0 / config.scaling_factor + config.shift_factor, return_dict=False)[0]

    def count_tokens(self, prompt: str) -> int:
        """How many tokens the encoder would have to read."""
        return len(getattr(self.encoders, self.tokenizer)(prompt).input_ids)

    @property
    def vae_scale(self) -> int:
        """Pixels of an image per latent cell, along each side."""
        return 2 ** (len(self.vae_config["block_out_channels"]) - 1)

    @property
    def guidance_is_distilled(self) -> bool:
        """Whether the network's guidance was distilled into it."""
        return self.distilled_scale is not None and bool(self.network_config.get("guidance_embeds"))

    def guidance(self, of: Expression, scale: float, against: Against = "empty", interval: Interval = ALWAYS) -> Expression:
        if not self.guidance_is_distilled:
            return super().guidance(of, scale, against, interval)
        if interval != ALWAYS:
            raise ValueError(f"interval {list(interval)}: family {self.name} takes one guidance scale for every t")
        if against == "negative":
            raise ValueError(f"negative_prompt: family {self.name} takes its scale as an input; it has no negative prompt")
        return DistilledGuidance(of, scale)

    def latent_shape(self, size: Size | None = None) -> tuple[int, ...]:
        width, height = (size or self.default_size).image
        return self.network_config["in_channels"], height // self.vae_scale, width // self.vae_scale

    @property
    def multiple(self) -> int:
        """What an image's sides are multiples of: a latent cell, times the patch of the network."""
        return 2 * self.vae_scale

    def grid(self, size: Size | None, steps: int) -> Float[Tensor, " points"]:
        """The times of the model's own scheduler, as its pipeline sets them; nothing is shifted on top.

        Where it is a solver of several steps, Euler's rollout uses the same shift, u from 1 to 0.
        """
        if self.multistep_solver is not None:
            told = self.config("scheduler")
            if told.get("_class_name") == self.multistep_solver and told.get("use_flow_sigmas"):
                return time_grid(steps, told["flow_shift"])
        spacing = (
            {"num_inference_steps": steps} if self.scheduler_spaces_times else {"sigmas": np.linspace(1.0, 1 / steps, steps)}
        )
        self.scheduler.set_timesteps(**spacing, mu=self.shift(size, steps))
        return self.scheduler.sigmas.float().clone()

    def shift(self, size: Size | None, steps: int) -> float:
        """mu of a shift that depends on the resolution: linear in the number of tokens; a static scheduler ignores it."""
        *_, height, width = self.latent_shape(size)
        return self._shift_of_length(height // 2 * (width // 2))

    def _shift_of_length(self, tokens: int) -> float:
        from diffusers.pipelines.flux.pipeline_flux import calculate_shift

        given = {"base_seq_len": "base_image_seq_len", "max_seq_len": "max_image_seq_len"}
        given |= {name: name for name in ("base_shift", "max_shift")}
        config = self.scheduler.config
        return calculate_shift(tokens, **{name: config[key] for name, key in given.items() if config.get(key) is not None})

    def check_row(self, row: Row, with_target: bool = False) -> None:
        width, height = self.size(row).image
        if width < 1 or height < 1 or width % self.multiple or height % self.multiple:
            raise ValueError(f"row {row.uid!r}: its size is {width} x {height}; sides are multiples of {self.multiple}")
        self.check_frames(row)
        self.check_sources(row)
        for image in row.sources:
            decode_image(image, row.uid)
        if with_target:
            for target in target_of(row, self.size(row).frames):
                decode_image(target, row.uid)

    @torch.no_grad()
    def encode(self, rows: Sequence[Row]) -> Condition:
        return Condition.concatenate([self._encode_row(row) for row in rows])

    def _encode_row(self, row: Row) -> Condition:
        self.check_row(row)
        self._check_length(row)
        sources = [self._image(row, image) for image in row.sources]
        tensors = self.text(row.prompt, sources)
        if self.guidance_is_distilled:
            tensors[DISTILLED_GUIDANCE] = torch.tensor([self.distilled_scale])
        seen = Named()
        for n, source in enumerate(sources):
            seen |= _numbered(self.source_tensors(source), n)
        negative = row.negative_prompt
        return Condition(
            tensors=tensors | seen,
            unconditional=self._empty_text(sources),
            negative={} if negative is None else self.negative_text(negative, sources),
            source_names=tuple(seen),
        )

    def _empty_text(self, sources: Images) -> Named:
        """The empty prompt's tensors; they are the same for every row, unless a text depends on the source images."""
        if self.text_sees_source:
            return self.negative_text("", sources)
        if len(sources) not in self._empty_texts:
            self._empty_texts[len(sources)] = self.negative_text("", sources)
        return self._empty_texts[len(sources)]

    @cached_property
    def _empty_texts(self) -> dict[int, Named]:
        """The empty prompt's tensors, as they were encoded once, by the number of source images."""
        return {}

    @torch.no_grad()
    def clean(self, rows: Sequence[Row]) -> ClipLatents:
        targets = ([self._image(row, frame) for frame in target_of(row, self.size(row).frames)] for row in rows)
        return torch.cat([self.target_latents(frames).float() for frames in targets])

    def _image(self, row: Row, data: bytes) -> Image.Image:
        """An image in the row's size, so that the source images of one group share a shape too."""
        image, size = Image.fromarray(to_bytes(decode_image(data, row.uid))), self.size(row).image
        return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)

    def _check_length(self, row: Row) -> None:
        if self.max_tokens is None or (tokens := self.count_tokens(row.prompt)) <= self.max_tokens:
            return
        self.truncated_prompts += 1
        if self.truncated_prompts == 1:
            _log.warning(
                "row %r: its prompt has %d tokens and %s reads %d; longer prompts are cut, and only counted from now on",
                *(row.uid, tokens, self.name, self.max_tokens),
            )

    def velocity(
        self, transformer: nn.Module, x_t: Float[Tensor, "batch ..."], t: Float[Tensor, " batch"], condition: Condition
    ) -> Float[Tensor, "batch ..."]:
        inputs = {n: v.to(self.dtype) if v.is_floating_point() else v for n, v in condition.tensors.items()}
        return self.call(transformer, x_t.to(self.dtype), t.float(), inputs).float()

    @torch.no_grad()
    def decode(self, x_0: ClipLatents) -> Float[np.ndarray, "batch 3 *image_frames rows columns"]:
        images = [self.decode_latents(row[None].to(self.device, self.dtype)).float().cpu() for row in x_0]
        return (torch.cat(images) / 2 + 0.5).numpy()


def _numbered(source: Named, n: int) -> Named:
    """The tensors of source image `n`, from 0, by names that are its own: `source`, `source_2`, `source_3`, ..."""
    return {name if n == 0 else f"{name}_{n + 1}": tensor for name, tensor in source.items()}


def source_inputs(inputs: Tensors, name: str = "source") -> list[Float[Tensor, "batch ..."]]:
    """A tensor of every source image, in their order; none where there is none."""
    names = [name, *(f"{name}_{n}" for n in range(2, MOST_SOURCES + 1))]
    return [inputs[name] for name in names if name in inputs]
