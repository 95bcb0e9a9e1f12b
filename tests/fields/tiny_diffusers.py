"""Tiny random diffusers networks and pipelines: the oracles of what `fields` makes of adapter files."""

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    ZImageTransformer2DModel,
)


def sd3_transformer() -> SD3Transformer2DModel:
    return _random(
        SD3Transformer2DModel(
            sample_size=16,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            caption_projection_dim=32,
            joint_attention_dim=32,
            pooled_projection_dim=64,
            pos_embed_max_size=16,
        )
    )


def flux_transformer() -> FluxTransformer2DModel:
    return _random(
        FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            axes_dims_rope=(4, 4, 8),
            guidance_embeds=True,
        )
    )


def z_image_transformer() -> ZImageTransformer2DModel:
    return _random(
        ZImageTransformer2DModel(
            in_channels=4,
            dim=32,
            n_layers=2,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=32,
            axes_dims=[8, 4, 4],
            axes_lens=[256, 32, 32],
        )
    )


def sd3_pipeline(transformer: SD3Transformer2DModel) -> StableDiffusion3Pipeline:
    """Without text encoders: prompts come as embeddings."""
    torch.manual_seed(1)
    vae = AutoencoderKL(block_out_channels=(4,), norm_num_groups=2, latent_channels=4, shift_factor=0.06, scaling_factor=1.5)
    parts = dict.fromkeys(("text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3"))
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipeline = StableDiffusion3Pipeline(transformer=transformer, scheduler=scheduler, vae=vae.eval(), **parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sd3_image(pipeline: StableDiffusion3Pipeline) -> torch.Tensor:
    """The image (3, 16, 16) of a fixed prompt from fixed noise."""
    rng = torch.Generator().manual_seed(2)
    return pipeline(
        prompt_embeds=torch.randn(1, 5, 32, generator=rng),
        pooled_prompt_embeds=torch.randn(1, 64, generator=rng),
        latents=torch.randn(1, 4, 16, 16, generator=rng),
        height=16,
        width=16,
        num_inference_steps=3,
        guidance_scale=1.0,
        output_type="pt",
    ).images[0]


def flux_pipeline(transformer: FluxTransformer2DModel) -> FluxPipeline:
    """Only to load adapters with."""
    parts = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "vae"))
    return FluxPipeline(transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(), **parts)


def _random(module):
    """The same random weights at every call, larger than a fresh network's: its conditions must matter."""
    rng = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        with torch.no_grad():
            parameter.copy_(torch.randn(parameter.shape, generator=rng) * (0.2 if parameter.ndim > 1 else 0.02))
    return module.eval().requires_grad_(False)
