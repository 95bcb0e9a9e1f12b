"""FLUX.2: dev with its distilled guidance, and klein. Both edit."""

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from fields.carriers import Tensors
from fields.data.columns import MOST_SOURCES
from fields.data.size import Size
from fields.families.folder import INDEX, fetch, read_json
from fields.families.pipeline import Images, Latents, Named, PipelineFamily, Pixels, blank, source_inputs
from fields.operators import Expression
from fields.operators.guidance import ALWAYS, Against, Interval

_TOKENIZER = "tokenizer"
_SOURCE_POSITION = 10  # first coordinate of the first source image's tokens, 20 of the second; the image's own is 0


class Flux2Family(PipelineFamily):
    """Layers of a language model as text, padded without a mask. A state is the VAE's normalised 2 x 2 patches."""

    name = "flux2"
    published_latents = "FLUX.2's"
    pipelines = ("Flux2Pipeline", "Flux2KleinPipeline")
    transformer_class = "Flux2Transformer2DModel"
    vae_class = "AutoencoderKLFlux2"
    source = "optional"
    max_tokens = 512
    distilled_scale = 4.0
    # train_dreambooth_lora_flux2.py and _flux2_klein.py of diffusers; attn.to_out is of the single-stream blocks.
    default_lora_targets = ("to_q", "to_k", "to_v", "to_out.0", "to_qkv_mlp_proj", "attn.to_out")

    @cached_property
    def encoders(self) -> Any:
        """Dev's tokenizer is published as a processor of texts and images, of which only texts are asked here."""
        if not self._has_processor(fetch(self._base, ())):
            return super().encoders
        from fields.families.text_processor import TextProcessor

        pipeline = super().encoders
        pipeline.register_modules(tokenizer=TextProcessor.read(fetch(self._base, (_TOKENIZER,)) / _TOKENIZER))
        return pipeline

    def given_parts(self, folder: Path) -> dict[str, Any]:
        return super().given_parts(folder) | ({_TOKENIZER: None} if self._has_processor(folder) else {})

    def _has_processor(self, folder: Path) -> bool:
        _, kind = read_json(folder / INDEX)[_TOKENIZER]
        return kind.endswith("Processor")

    def latent_shape(self, size: Size | None = None) -> tuple[int, ...]:
        channels, height, width = super().latent_shape(size)
        return channels, height // 2, width // 2

    def shift(self, size: Size | None, steps: int) -> float:
        """mu of FLUX.2 depends on the number of steps too."""
        from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

        _, height, width = self.latent_shape(size)
        return compute_empirical_mu(height * width, steps)

    def guidance(self, of: Expression, scale: float, against: Against = "empty", interval: Interval = ALWAYS) -> Expression:
        if not self.guidance_is_distilled and read_json(fetch(self._base, ()) / INDEX).get("is_distilled"):
            raise ValueError(f"guidance {scale}: {self.path} was distilled to do without")
        return super().guidance(of, scale, against, interval)

    @property
    def most_sources(self) -> int:
        return MOST_SOURCES

    def text(self, prompt: str, sources: Images) -> Named:
        return {"text": self.encoders.encode_prompt(prompt, device=self.device, max_sequence_length=self.max_tokens)[0]}

    def widest_text(self, size: Size, sources: int) -> Named:
        return {"text": blank(self.longest_prompt, self.network_config["joint_attention_dim"])}

    def count_tokens(self, prompt: str) -> int:
        """Of the prompt alone: the template's own tokens are few."""
        tokenizer = self.encoders.tokenizer
        return len(getattr(tokenizer, "tokenizer", tokenizer)(prompt).input_ids)

    def image_latents(self, image: Image.Image) -> Latents:
        return self.encoders._encode_vae_image(self.pixels(image), generator=None)

    def call(self, transformer: nn.Module, x_t: Latents, t: Float[Tensor, " batch"], inputs: Tensors) -> Latents:
        images = {0: x_t} | {_SOURCE_POSITION * n: source for n, source in enumerate(source_inputs(inputs), start=1)}
        height, width = x_t.shape[2:]
        tokens = torch.cat([image.flatten(2).transpose(1, 2) for image in images.values()], dim=1)
        ids = torch.cat([_positions(first, height, width, 1) for first in images]).to(x_t.device)
        text_ids = _positions(0, 1, 1, inputs["text"].shape[1]).to(x_t.device)
        velocity = transformer(
            hidden_states=tokens,
            timestep=t,
            guidance=inputs.get("guidance"),
            encoder_hidden_states=inputs["text"],
            txt_ids=text_ids.expand(len(x_t), -1, -1),
            img_ids=ids.expand(len(x_t), -1, -1),
            return_dict=False,
        )[0]
        return velocity[:, : height * width].transpose(1, 2).reshape(x_t.shape)

    def decode_latents(self, x_0: Latents) -> Pixels:
        norm = self.vae.bn
        deviation = (norm.running_var + self.vae.config.batch_norm_eps).sqrt()
        patches = x_0 * deviation[:, None, None] + norm.running_mean[:, None, None]
        return self.vae.decode(_cells(patches.to(x_0.dtype)), return_dict=False)[0]


def _cells(patches: Tensor) -> Tensor:
    """Patches (batch, 4 c, h, w) of 2 x 2 cells as latents (batch, c, 2 h, 2 w): channel before row before column."""
    return patches.unflatten(1, (-1, 2, 2)).permute(0, 1, 4, 2, 5, 3).flatten(4, 5).flatten(2, 3)


def _positions(first: int, h: int, w: int, length: int) -> Tensor:
    """(first, row, column, place in the text) of tokens in row order."""
    return torch.cartesian_prod(torch.tensor([first]), torch.arange(h), torch.arange(w), torch.arange(length))
