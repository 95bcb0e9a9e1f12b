"""Folders that hold what published models say of themselves: their configurations, without a single weight.

The figures are those of the repositories' own `config.json` files, as the models' papers and the defaults of diffusers and
transformers give them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
           "projection_dim": 768, "vocab_size": 49408}  # fmt: skip
_CLIP_G = _CLIP_L | {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
                     "projection_dim": 1280}  # fmt: skip
_T5_XXL = {"d_model": 4096, "d_ff": 10240, "d_kv": 64, "num_layers": 24, "num_heads": 64, "vocab_size": 32128,
           "feed_forward_proj": "gated-gelu", "is_encoder_decoder": False}  # fmt: skip
_QWEN_VL = {
    "text_config": {"vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
                    "num_attention_heads": 28, "num_key_value_heads": 4,
                    "rope_scaling": {"type": "default", "mrope_section": [16, 24, 24], "rope_type": "default"}},
    "vision_config": {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584},
}  # fmt: skip
_QWEN3_4B = {"vocab_size": 151936, "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36,
             "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128}  # fmt: skip
_MISTRAL_SMALL = {
    "text_config": {"model_type": "mistral", "vocab_size": 131072, "hidden_size": 5120, "intermediate_size": 32768,
                    "num_hidden_layers": 40, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128},
    "vision_config": {"model_type": "pixtral", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
                      "num_attention_heads": 16, "image_size": 1540, "patch_size": 14},
}  # fmt: skip
_VAE = {"_class_name": "AutoencoderKL", "in_channels": 3, "out_channels": 3, "latent_channels": 16, "layers_per_block": 2,
        "block_out_channels": [128, 256, 512, 512], "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4, "use_quant_conv": False, "use_post_quant_conv": False}  # fmt: skip
_VAE_SD3 = _VAE | {"scaling_factor": 1.5305, "shift_factor": 0.0609}
_VAE_FLUX = _VAE | {"scaling_factor": 0.3611, "shift_factor": 0.1159}  # Z-Image has it too
_EULER = {"_class_name": "FlowMatchEulerDiscreteScheduler"}

_SD3 = {
    "_class_name": "SD3Transformer2DModel", "sample_size": 128, "patch_size": 2, "in_channels": 16, "out_channels": 16,
    "attention_head_dim": 64, "joint_attention_dim": 4096, "pooled_projection_dim": 2048, "qk_norm": "rms_norm",
}  # fmt: skip
_SD3_PARTS = {
    "text_encoder": ("transformers", "CLIPTextModelWithProjection", _CLIP_L),
    "text_encoder_2": ("transformers", "CLIPTextModelWithProjection", _CLIP_G),
    "text_encoder_3": ("transformers", "T5EncoderModel", _T5_XXL),
    "vae": ("diffusers", "AutoencoderKL", _VAE_SD3),
    "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler", _EULER | {"shift": 3.0}),
}
_FLUX_PARTS = {
    "transformer": ("diffusers", "FluxTransformer2DModel", {
        "_class_name": "FluxTransformer2DModel", "in_channels": 64, "num_layers": 19, "num_single_layers": 38,
        "attention_head_dim": 128, "num_attention_heads": 24, "joint_attention_dim": 4096, "pooled_projection_dim": 768,
        "guidance_embeds": True, "axes_dims_rope": [16, 56, 56],
    }),
    "text_encoder": ("transformers", "CLIPTextModel", _CLIP_L),
    "text_encoder_2": ("transformers", "T5EncoderModel", _T5_XXL),
    "vae": ("diffusers", "AutoencoderKL", _VAE_FLUX),
    "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler", _EULER | {
        "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15, "base_image_seq_len": 256,
        "max_image_seq_len": 4096,
    }),
}  # fmt: skip
_QWEN_PARTS = {
    "transformer": ("diffusers", "QwenImageTransformer2DModel", {
        "_class_name": "QwenImageTransformer2DModel", "patch_size": 2, "in_channels": 64, "out_channels": 16,
        "num_layers": 60, "attention_head_dim": 128, "num_attention_heads": 24, "joint_attention_dim": 3584,
        "axes_dims_rope": [16, 56, 56],
    }),
    "text_encoder": ("transformers", "Qwen2_5_VLForConditionalGeneration", _QWEN_VL),
    "vae": ("diffusers", "AutoencoderKLQwenImage", {
        "_class_name": "AutoencoderKLQwenImage", "base_dim": 96, "z_dim": 16, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2,
        "temperal_downsample": [False, True, True],
    }),
    "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler", _EULER | {
        "use_dynamic_shifting": True, "shift_terminal": 0.02, "base_shift": 0.5, "max_shift": 0.9, "base_image_seq_len": 256,
        "max_image_seq_len": 8192,
    }),
}  # fmt: skip

PUBLISHED: Mapping[str, tuple[str, Mapping[str, tuple[str, str, Mapping[str, Any]]]]] = {
    "stable-diffusion-3.5-medium": ("StableDiffusion3Pipeline", _SD3_PARTS | {
        "transformer": ("diffusers", "SD3Transformer2DModel", _SD3 | {
            "num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536, "pos_embed_max_size": 384,
            "dual_attention_layers": list(range(13)),
        }),
    }),
    "stable-diffusion-3.5-large": ("StableDiffusion3Pipeline", _SD3_PARTS | {
        "transformer": ("diffusers", "SD3Transformer2DModel", _SD3 | {
            "num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432, "pos_embed_max_size": 192,
        }),
    }),
    "FLUX.1-dev": ("FluxPipeline", _FLUX_PARTS),
    "FLUX.1-Kontext-dev": ("FluxKontextPipeline", _FLUX_PARTS),
    "FLUX.2-dev": ("Flux2Pipeline", {
        "transformer": ("diffusers", "Flux2Transformer2DModel", {
            "_class_name": "Flux2Transformer2DModel", "in_channels": 128, "num_layers": 8, "num_single_layers": 48,
            "attention_head_dim": 128, "num_attention_heads": 48, "joint_attention_dim": 15360,
            "axes_dims_rope": [32, 32, 32, 32], "guidance_embeds": True,
        }),
        "text_encoder": ("transformers", "Mistral3ForConditionalGeneration", _MISTRAL_SMALL),
        "vae": ("diffusers", "AutoencoderKLFlux2", {
            "_class_name": "AutoencoderKLFlux2", "latent_channels": 32, "block_out_channels": [128, 256, 512, 512],
        }),
        "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler", _EULER | {"use_dynamic_shifting": True}),
    }),
    "Qwen-Image": ("QwenImagePipeline", _QWEN_PARTS),
    "Qwen-Image-Edit-2509": ("QwenImageEditPlusPipeline", _QWEN_PARTS),
    "Z-Image": ("ZImagePipeline", {
        "transformer": ("diffusers", "ZImageTransformer2DModel", {
            "_class_name": "ZImageTransformer2DModel", "in_channels": 16, "dim": 3840, "n_layers": 30, "n_refiner_layers": 2,
            "n_heads": 30, "n_kv_heads": 30, "cap_feat_dim": 2560, "axes_dims": [32, 48, 48], "axes_lens": [1536, 512, 512],
        }),
        "text_encoder": ("transformers", "Qwen3Model", _QWEN3_4B),
        "vae": ("diffusers", "AutoencoderKL", _VAE_FLUX),
        "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler", _EULER | {"shift": 3.0}),
    }),
}  # fmt: skip


def write(name: str, folder: Path) -> Path:
    """The folder of a published model, as the hub has it but for its weights and tokenizers."""
    pipeline, parts = PUBLISHED[name]
    index = {"_class_name": pipeline} | {part: [library, kind] for part, (library, kind, _) in parts.items()}
    for part, (_, _, config) in parts.items():
        (folder / part).mkdir(parents=True, exist_ok=True)
        file = "scheduler_config.json" if part == "scheduler" else "config.json"
        (folder / part / file).write_text(json.dumps(config))
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder
