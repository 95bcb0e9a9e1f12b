"""Wan: text to video, of which one frame is an image. Wan 2.1, and of Wan 2.2 the models of one network."""

from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from fields.carriers import Tensors
from fields.data.rows import Row
from fields.data.size import Size
from fields.families.folder import INDEX, read_json
from fields.families.pipeline import ClipLatents, ClipPixels, Images, Latents, Named, PipelineFamily, blank


class WanFamily(PipelineFamily):
    """UMT5's text of 512 tokens, zeros beyond the prompt. The network and the VAE have an axis of frames.

    The state of an image is (channels, height, width), as in every family: the axis of its one frame is added here, so that
    image models of the same latent space can teach it.
    """

    name = "wan"
    published_latents = "Wan 2.1's"
    pipelines = ("WanPipeline",)
    transformer_class = "WanTransformer3DModel"
    vae_class = "AutoencoderKLWan"
    max_tokens = 512
    scheduler_spaces_times = True
    multistep_solver = "UniPCMultistepScheduler"
    own_size = Size(832, 480, 81)
    default_lora_targets = ("to_q", "to_k", "to_v", "to_out.0")  # finetrainers' examples for Wan; diffusers has no script

    def _transformer_folder(self, path: Path, files: str = "*") -> Path:
        folder = super()._transformer_folder(path, files)
        index = folder.parent / INDEX
        if index.is_file() and (boundary := read_json(index).get("boundary_ratio")) is not None:
            raise ValueError(
                f"{path} has a network above t = {boundary} and another below; family {self.name} takes models of one"
            )
        return folder

    @property
    def vae_scale(self) -> int:
        return self.vae_config.get("scale_factor_spatial", 8)  # which the folders of Wan 2.1 don't say

    @property
    def _frames_of_a_cell(self) -> int:
        return self.vae_config.get("scale_factor_temporal", 4)

    @property
    def multiple(self) -> int:
        return self.vae_scale * self.network_config["patch_size"][1]

    def latent_shape(self, size: Size | None = None) -> tuple[int, ...]:
        """The first frame has cells of its own, and every four that follow share theirs."""
        channels, *sides = super().latent_shape(size)
        size = size or self.default_size
        return (channels, *sides) if size.frames == 1 else (channels, self._latent_frames(size), *sides)

    def _latent_frames(self, size: Size) -> int:
        return 1 + (size.frames - 1) // self._frames_of_a_cell

    def extent(self, size: Size) -> int:
        return super().extent(size) * self._latent_frames(size)

    def check_frames(self, row: Row) -> None:
        if (frames := self.size(row).frames) % (shared := self._frames_of_a_cell) != 1:
            raise ValueError(f"row {row.uid!r} asks for {frames} frames; family {self.name} makes {shared} k + 1: 1, 5, 9, ...")

    def text(self, prompt: str, sources: Images) -> Named:
        text, _ = self.encoders.encode_prompt(
            prompt, do_classifier_free_guidance=False, device=self.device, max_sequence_length=self.max_tokens
        )
        return {"text": text}

    def widest_text(self, size: Size, sources: int) -> Named:
        return {"text": blank(self.longest_prompt, self.network_config["text_dim"])}

    def call(self, transformer: nn.Module, x_t: ClipLatents, t: Float[Tensor, " batch"], inputs: Tensors) -> ClipLatents:
        velocity = transformer(
            hidden_states=_framed(x_t), timestep=1000 * t, encoder_hidden_states=inputs["text"], return_dict=False
        )[0]
        return velocity.reshape(x_t.shape)

    def image_latents(self, image: Image.Image) -> Latents:
        return self._clip_latents([image])[:, :, 0]

    def target_latents(self, frames: Images) -> ClipLatents:
        return self.image_latents(frames[0]) if len(frames) == 1 else self._clip_latents(frames)

    def _clip_latents(self, frames: Images) -> Float[Tensor, "batch channels frames height width"]:
        mean, deviation = self._statistics(self.device)
        pixels = torch.stack([self.pixels(frame) for frame in frames], dim=2)
        return (self.vae.encode(pixels).latent_dist.mode() - mean) / deviation

    def _statistics(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and deviation of each channel of the VAE's latents."""
        mean, deviation = (torch.tensor(self.vae.config[name]) for name in ("latents_mean", "latents_std"))
        return mean[:, None, None, None].to(device, self.dtype), deviation[:, None, None, None].to(device, self.dtype)

    def decode_latents(self, x_0: ClipLatents) -> ClipPixels:
        mean, deviation = self._statistics(x_0.device)
        frames = self.vae.decode(_framed(x_0) * deviation + mean, return_dict=False)[0]
        return frames if x_0.ndim == 5 else frames[:, :, 0]


def _framed(x: ClipLatents) -> Float[Tensor, "batch channels frames height width"]:
    """States with an axis of frames, which an image's has not."""
    return x if x.ndim == 5 else x[:, :, None]
