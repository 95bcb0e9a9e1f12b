"""FLUX.1: dev with its distilled guidance, schnell, and Kontext, which edits."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fields.carriers import Tensors
from fields.data.size import Size
from fields.families.packing import pack, positions, unpack
from fields.families.pipeline import Images, Latents, Named, PipelineFamily, blank


class FluxFamily(PipelineFamily):
    """CLIP's pooled text, a T5 without a mask. A source image's tokens follow the image's own, told apart by position."""

    name = "flux"
    published_latents = "FLUX.1's"
    pipelines = ("FluxPipeline", "FluxKontextPipeline")
    encoder_class = "FluxKontextPipeline"  # encodes what FluxPipeline does, and source images
    transformer_class = "FluxTransformer2DModel"
    source = "optional"
    tokenizer, max_tokens = "tokenizer_2", 512
    distilled_scale = 3.5
    default_lora_targets = (  # train_dreambooth_lora_flux_kontext.py of diffusers; its example for dev leaves out proj_mlp
        *("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0"),
        *("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out"),
        *("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2", "proj_mlp"),
    )

    def latent_shape(self, size: Size | None = None) -> tuple[int, ...]:
        channels, height, width = super().latent_shape(size)
        return channels // 4, height, width

    def text(self, prompt: str, sources: Images) -> Named:
        text, pooled, _ = self.encoders.encode_prompt(prompt, None, device=self.device, max_sequence_length=self.max_tokens)
        return {"text": text, "pooled": pooled}

    def widest_text(self, size: Size, sources: int) -> Named:
        network = self.network_config
        text = blank(self.longest_prompt, network["joint_attention_dim"])
        return {"text": text, "pooled": blank(network["pooled_projection_dim"])}

    def call(self, transformer: nn.Module, x_t: Latents, t: Float[Tensor, " batch"], inputs: Tensors) -> Latents:
        height, width = x_t.shape[2:]
        tokens, ids = [pack(x_t)], [positions(height // 2, width // 2, 0, x_t.device)]
        if "source" in inputs:
            tokens.append(pack(inputs["source"]))
            ids.append(positions(height // 2, width // 2, 1, x_t.device))
        velocity = transformer(
            hidden_states=torch.cat(tokens, dim=1),
            timestep=t,
            guidance=inputs.get("guidance"),
            pooled_projections=inputs["pooled"],
            encoder_hidden_states=inputs["text"],
            txt_ids=x_t.new_zeros(inputs["text"].shape[1], 3),
            img_ids=torch.cat(ids),
            return_dict=False,
        )[0]
        return unpack(velocity[:, : tokens[0].shape[1]], height, width)
