"""Sana (not Sprint, whose network lives on another path than the straight one)."""

import inspect

from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from fields.carriers import Tensors
from fields.data.size import Size
from fields.families.pipeline import Images, Latents, Named, PipelineFamily, Pixels, blank


class SanaFamily(PipelineFamily):
    """Gemma's text with a mask, an instruction before the prompt and none before the negative one."""

    name = "sana"
    published_latents = "DC-AE's"
    pipelines = ("SanaPipeline",)
    transformer_class = "SanaTransformer2DModel"
    vae_class = "AutoencoderDC"
    max_tokens = 299  # of 300, one ends the instruction
    scheduler_spaces_times = True
    multistep_solver = "DPMSolverMultistepScheduler"
    default_lora_targets = ("to_q", "to_k", "to_v")  # train_dreambooth_lora_sana.py of diffusers

    @property
    def vae_scale(self) -> int:
        return 2 ** (len(self.vae_config["encoder_block_out_channels"]) - 1)

    @property
    def multiple(self) -> int:
        return self.vae_scale

    def text(self, prompt: str, sources: Images) -> Named:
        instruction = inspect.signature(type(self.encoders).__call__).parameters["complex_human_instruction"].default
        text, mask, *_ = self.encoders.encode_prompt(
            prompt, do_classifier_free_guidance=False, device=self.device, complex_human_instruction=instruction
        )
        return {"text": text, "mask": mask}

    def widest_text(self, size: Size, sources: int) -> Named:
        tokens = self.longest_prompt + 1
        return {"text": blank(tokens, self.network_config["caption_channels"]), "mask": blank(tokens)}

    def negative_text(self, prompt: str, sources: Images) -> Named:
        """Without the instruction."""
        *_, text, mask = self.encoders.encode_prompt("", negative_prompt=prompt, device=self.device)
        return {"text": text, "mask": mask}

    def call(self, transformer: nn.Module, x_t: Latents, t: Float[Tensor, " batch"], inputs: Tensors) -> Latents:
        answer = transformer(
            x_t,
            encoder_hidden_states=inputs["text"],
            encoder_attention_mask=inputs["mask"],
            timestep=1000 * t * self.network_config["timestep_scale"],
            return_dict=False,
        )[0]
        return answer[:, : x_t.shape[1]]  # a network that also learned a variance answers both

    def image_latents(self, image: Image.Image) -> Latents:
        return self.vae.encode(self.pixels(image)).latent * self.vae.config.scaling_factor

    def decode_latents(self, x_0: Latents) -> Pixels:
        return self.vae.decode(x_0 / self.vae.config.scaling_factor, return_dict=False)[0]
