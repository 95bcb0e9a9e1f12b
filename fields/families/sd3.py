"""Stable Diffusion 3 and 3.5."""

from jaxtyping import Float
from torch import Tensor, nn

from fields.carriers import Tensors
from fields.data.size import Size
from fields.families.pipeline import Images, Latents, Named, PipelineFamily, blank

_CLIP_TOKENS = 77


class SD3Family(PipelineFamily):
    """Two CLIPs and a T5 without a mask: padding is part of the condition. The network's time input is 1000 t."""

    name = "sd3"
    published_latents = "SD3's"
    pipelines = ("StableDiffusion3Pipeline",)
    transformer_class = "SD3Transformer2DModel"
    tokenizer, max_tokens = "tokenizer_3", 256
    scheduler_spaces_times = True
    default_lora_targets = (  # DanceOPD 0.2.0, danceopd/backends/sd35_diffusers.py; train_dreambooth_lora_sd3.py has the same
        *("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0"),
        *("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out"),
    )

    def text(self, prompt: str, sources: Images) -> Named:
        text, _, pooled, _ = self.encoders.encode_prompt(
            prompt, None, None, device=self.device, do_classifier_free_guidance=False, max_sequence_length=self.max_tokens
        )
        return {"text": text, "pooled": pooled}

    def widest_text(self, size: Size, sources: int) -> Named:
        network = self.network_config
        text = blank(_CLIP_TOKENS + self.longest_prompt, network["joint_attention_dim"])
        return {"text": text, "pooled": blank(network["pooled_projection_dim"])}

    def call(self, transformer: nn.Module, x_t: Latents, t: Float[Tensor, " batch"], inputs: Tensors) -> Latents:
        return transformer(
            hidden_states=x_t,
            timestep=1000 * t,
            encoder_hidden_states=inputs["text"],
            pooled_projections=inputs["pooled"],
            return_dict=False,
        )[0]
