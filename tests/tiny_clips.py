"""A tiny and random pipeline that makes clips."""

from typing import Any

import torch
from tiny_parts import euler, louder, t5, tokenizer, transformer
from torch import nn


def wan_vae(kind: str) -> nn.Module:
    """Wan 2.1's and Qwen-Image's are two classes of diffusers with the same weights."""
    import diffusers

    torch.manual_seed(8)
    return louder(
        getattr(diffusers, kind)(
            base_dim=8, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
            latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.5, 0.7, 1.1, 0.9],
        ), 1.5,
    )  # fmt: skip


def _attentive(**options: Any) -> nn.Module:
    network = transformer("WanTransformer3DModel", 3.0, **options)
    for name, parameter in network.named_parameters():
        if "attn2.norm_" in name:
            parameter.data *= 2
    return network


def wan() -> Any:
    """Its text is mostly zeros, so attention to it is made sharper, or a prompt would hardly count."""
    from diffusers import WanPipeline

    return WanPipeline(
        transformer=_attentive(
            in_channels=4, out_channels=4, num_layers=2, num_attention_heads=2,
            attention_head_dim=24, text_dim=32, freq_dim=32, ffn_dim=64, rope_max_seq_len=64,
        ),
        scheduler=euler(shift=3.0), vae=wan_vae("AutoencoderKLWan"), text_encoder=t5(32, "UMT5"), tokenizer=tokenizer(512),
    )  # fmt: skip
