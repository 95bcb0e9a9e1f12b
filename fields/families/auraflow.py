"""AuraFlow."""

from math import isqrt

from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from fields.carriers import Tensors
from fields.data.rows import Row
from fields.data.size import Size
from fields.families.pipeline import Images, Latents, Named, PipelineFamily, Pixels, blank


class AuraFlowFamily(PipelineFamily):
    """Pile-T5's text, zero where it is padding; the network takes no mask. Of the square of positions that it learned, an image
    takes the middle.
    """

    name = "auraflow"
    published_latents = "SDXL's"
    pipelines = ("AuraFlowPipeline",)
    transformer_class = "AuraFlowTransformer2DModel"
    max_tokens = 256
    scheduler_spaces_times = True
    default_lora_targets = (  # SimpleTuner, helpers/models/auraflow/model.py: diffusers has no training script for it
        *("to_q", "to_k", "to_v", "to_out.0"),
        *("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
    )

    @property
    def longest_side(self) -> int:
        """Pixels of the longest side of an image for whose patches the network has positions."""
        return isqrt(self.network_config["pos_embed_max_size"]) * self.network_config["patch_size"] * self.vae_scale

    def check_row(self, row: Row, with_target: bool = False) -> None:
        """Refuses sizes past the network's positions, too: the network itself would read others in their place."""
        super().check_row(row, with_target)
        width, height = self.size(row).image
        if max(width, height) > self.longest_side:
            has = f"row {row.uid!r}: its size is {width} x {height}"
            raise ValueError(f"{has}; this network has positions for sides of {self.longest_side} at most")

    def text(self, prompt: str, sources: Images) -> Named:
        text, *_ = self.encoders.encode_prompt(
            prompt, do_classifier_free_guidance=False, device=self.device, max_sequence_length=self.max_tokens
        )
        return {"text": text}

    def widest_text(self, size: Size, sources: int) -> Named:
        return {"text": blank(self.longest_prompt, self.network_config["joint_attention_dim"])}

    def call(self, transformer: nn.Module, x_t: Latents, t: Float[Tensor, " batch"], inputs: Tensors) -> Latents:
        return transformer(hidden_states=x_t, timestep=t, encoder_hidden_states=inputs["text"], return_dict=False)[0]

    def image_latents(self, image: Image.Image) -> Latents:
        return self.vae.encode(self.pixels(image)).latent_dist.mode() * self.vae.config.scaling_factor

    def decode_latents(self, x_0: Latents) -> Pixels:
        return self.vae.decode(x_0 / self.vae.config.scaling_factor, return_dict=False)[0]
