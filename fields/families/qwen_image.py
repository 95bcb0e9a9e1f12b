"""Qwen-Image."""

import torch
from jaxtyping import Float, Shaped
from PIL import Image
from torch import Tensor, nn

from fields.carriers import Tensors
from fields.data.size import Size
from fields.families.guidance import LengthKept
from fields.families.packing import pack, unpack
from fields.families.pipeline import Images, Latents, Named, PipelineFamily, Pixels, blank, nothing_hidden, source_inputs
from fields.operators import Expression
from fields.operators.guidance import ALWAYS, Against, Interval


class QwenImageFamily(PipelineFamily):
    """The last layer of Qwen2.5-VL as text, of any length, with a mask. Guidance keeps the length of each token."""

    name = "qwen_image"
    published_latents = "Wan 2.1's"  # of whose VAE it took the encoder
    pipelines = ("QwenImagePipeline",)
    transformer_class = "QwenImageTransformer2DModel"
    vae_class = "AutoencoderKLQwenImage"
    max_tokens = 512
    default_lora_targets = ("to_q", "to_k", "to_v", "to_out.0")  # train_dreambooth_lora_qwen_image.py of diffusers

    @property
    def vae_scale(self) -> int:
        return 2 ** len(self.vae_config["temperal_downsample"])

    def latent_shape(self, size: Size | None = None) -> tuple[int, ...]:
        channels, height, width = super().latent_shape(size)
        return channels // 4, height, width

    def guidance(self, of: Expression, scale: float, against: Against = "empty", interval: Interval = ALWAYS) -> Expression:
        return LengthKept(super().guidance(of, scale, against, interval), _token_lengths)

    def text(self, prompt: str, sources: Images) -> Named:
        text, mask = self.encoders.encode_prompt(prompt, device=self.device, max_sequence_length=self.max_tokens)
        return masked(text, mask)

    def widest_text(self, size: Size, sources: int) -> Named:
        return self._widest(self.longest_prompt)

    def _widest(self, tokens: int) -> Named:
        return {"text": blank(tokens, self.network_config["joint_attention_dim"]), "mask": nothing_hidden(tokens)}

    def count_tokens(self, prompt: str) -> int:
        template, dropped = self.encoders.prompt_template_encode, self.encoders.prompt_template_encode_start_idx
        return super().count_tokens(template.format(prompt)) - dropped

    def call(self, transformer: nn.Module, x_t: Latents, t: Float[Tensor, " batch"], inputs: Tensors) -> Latents:
        height, width = x_t.shape[2:]
        tokens = [pack(x_t), *map(pack, source_inputs(inputs))]
        velocity = transformer(
            hidden_states=torch.cat(tokens, dim=1),
            timestep=t,
            encoder_hidden_states=inputs["text"],
            encoder_hidden_states_mask=None if bool(inputs["mask"].all()) else inputs["mask"],
            img_shapes=[[(1, height // 2, width // 2)] * len(tokens)] * len(x_t),
            return_dict=False,
        )[0]
        return unpack(velocity[:, : tokens[0].shape[1]], height, width)

    def image_latents(self, image: Image.Image) -> Latents:
        mean, deviation = self._statistics(self.device)
        latents = self.vae.encode(self.pixels(image)[:, :, None]).latent_dist.mode()[:, :, 0]
        return (latents - mean) / deviation

    def _statistics(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and deviation of each channel of the VAE's latents."""
        mean, deviation = (torch.tensor(self.vae.config[name]) for name in ("latents_mean", "latents_std"))
        return mean[:, None, None].to(device, self.dtype), deviation[:, None, None].to(device, self.dtype)

    def decode_latents(self, x_0: Latents) -> Pixels:
        mean, deviation = self._statistics(x_0.device)
        return self.vae.decode((x_0 * deviation + mean)[:, :, None], return_dict=False)[0][:, :, 0]


def masked(text: Float[Tensor, "batch tokens width"], mask: Shaped[Tensor, "batch tokens"] | None) -> Named:
    """Qwen's pipelines leave out a mask that hides nothing; here a row may yet be padded beside a longer one."""
    return {"text": text, "mask": torch.ones(text.shape[:2], dtype=torch.bool) if mask is None else mask.bool()}


def _token_lengths(velocity: Tensor) -> Tensor:
    """Each token's length, at each of its values."""
    tokens = pack(velocity)
    return unpack(tokens.norm(dim=-1, keepdim=True).expand_as(tokens), *velocity.shape[2:])
