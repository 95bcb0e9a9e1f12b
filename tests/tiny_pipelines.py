"""A complete `diffusers` pipeline of each family, tiny and random, with weights so large that a dropped condition shows."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tiny_clips import wan, wan_vae
from tiny_parts import CHAT, SPECIAL, VOCABULARY, causal, clip, euler, louder, plain_vae, t5, tokenizer, transformer, vae
from torch import nn

from fields.data.size import Size
from fields.families.pipeline import PipelineFamily
from fields.registry import FAMILIES

SIZE = Size(64, 96)  # not square, so that a swapped width and height shows


def sd3() -> Any:
    from diffusers import StableDiffusion3Pipeline

    return StableDiffusion3Pipeline(
        transformer=transformer(
            "SD3Transformer2DModel", sample_size=16, patch_size=2, in_channels=4, out_channels=4, num_layers=2,
            attention_head_dim=8, num_attention_heads=4, caption_projection_dim=32, joint_attention_dim=64,
            pooled_projection_dim=64, pos_embed_max_size=16, dual_attention_layers=(0,), qk_norm="rms_norm",
        ),
        scheduler=euler(shift=3.0), vae=plain_vae(4),
        text_encoder=clip(32, 32, 1), tokenizer=tokenizer(), text_encoder_2=clip(32, 32, 2), tokenizer_2=tokenizer(),
        text_encoder_3=t5(64), tokenizer_3=tokenizer(512),
    )  # fmt: skip


def flux(kind: str = "FluxPipeline", guided: bool = True) -> Any:
    import diffusers

    return getattr(diffusers, kind)(
        transformer=transformer(
            "FluxTransformer2DModel", in_channels=16, num_layers=2, num_single_layers=1, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8),
            guidance_embeds=guided,
        ),
        scheduler=euler(use_dynamic_shifting=True), vae=plain_vae(4),
        text_encoder=clip(32, 32, 1, projected=False), tokenizer=tokenizer(), text_encoder_2=t5(32), tokenizer_2=tokenizer(512),
    )  # fmt: skip


def _flux2_parts(text_width: int, guided: bool) -> dict[str, Any]:
    autoencoder = vae(4, "AutoencoderKLFlux2")
    autoencoder.bn.running_mean.normal_()
    autoencoder.bn.running_var.uniform_(0.5, 2)
    return {
        "transformer": transformer(
            "Flux2Transformer2DModel", in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=text_width, axes_dims_rope=(4, 4, 4, 4), guidance_embeds=guided,
        ),
        "scheduler": euler(use_dynamic_shifting=True),
        "vae": autoencoder,
        "tokenizer": tokenizer(512),
    }  # fmt: skip


def flux2() -> Any:
    """Klein, the base: undistilled. Its text is of layers 9, 18 and 27."""
    from diffusers import Flux2KleinPipeline

    return Flux2KleinPipeline(**_flux2_parts(96, guided=False), text_encoder=causal("Qwen3", 28, head=True))


def flux2_dev() -> Any:
    """Its text is of layers 10, 20 and 30; the published tokenizer is a processor, of which texts need one part."""
    from diffusers import Flux2Pipeline
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration

    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "head_dim": 16}
    text = {**sizes, "model_type": "mistral", "vocab_size": VOCABULARY, "num_hidden_layers": 30, "num_key_value_heads": 1}
    vision = {**sizes, "model_type": "pixtral", "num_hidden_layers": 1, "image_size": 32, "patch_size": 16}
    torch.manual_seed(4)
    encoder = louder(Mistral3ForConditionalGeneration(Mistral3Config(text_config=text, vision_config=vision)), 5.0)
    from fields.families.text_processor import TextProcessor

    parts = _flux2_parts(96, guided=True)
    return Flux2Pipeline(**parts | {"tokenizer": TextProcessor(parts["tokenizer"], CHAT)}, text_encoder=encoder)


def qwen_vl() -> nn.Module:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
            "rope_scaling": {"type": "default", "mrope_section": [2, 2, 4], "rope_type": "default"}, "rope_theta": 1e6,
        },
        vision_config={
            "depth": 2, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32,
            "patch_size": 14, "spatial_merge_size": 2, "window_size": 112, "fullatt_block_indexes": [1],
        },
        image_token_id=SPECIAL.index("<|image_pad|>"), video_token_id=SPECIAL.index("<|video_pad|>"),
        vision_start_token_id=SPECIAL.index("<|vision_start|>"), vision_end_token_id=SPECIAL.index("<|vision_end|>"),
    )  # fmt: skip
    torch.manual_seed(7)
    return louder(Qwen2_5_VLForConditionalGeneration(config), 3.0)


def _qwen_parts(**options: Any) -> dict[str, Any]:
    return {
        "transformer": transformer(
            "QwenImageTransformer2DModel", patch_size=2, in_channels=16, out_channels=4, num_layers=2,
            attention_head_dim=16, num_attention_heads=2, joint_attention_dim=32, axes_dims_rope=(8, 4, 4), **options,
        ),
        "scheduler": euler(
            use_dynamic_shifting=True, shift_terminal=0.02, max_shift=0.9, max_image_seq_len=8192, time_shift_type="exponential"
        ),
        "vae": wan_vae("AutoencoderKLQwenImage"),
        "text_encoder": qwen_vl(),
        "tokenizer": tokenizer(1200),
    }  # fmt: skip


def qwen_image() -> Any:
    from diffusers import QwenImagePipeline

    return QwenImagePipeline(**_qwen_parts())


def _processor(words: Any) -> Any:
    from transformers import Qwen2VLImageProcessor

    from fields.families.stills import StillsProcessor

    return StillsProcessor(Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=56 * 56), words, chat_template=CHAT)


def qwen_image_edit() -> Any:
    from diffusers import QwenImageEditPipeline

    parts = _qwen_parts()
    return QwenImageEditPipeline(**parts, processor=_processor(parts["tokenizer"]))


def qwen_image_edit_plus() -> Any:
    """As of 2511: the source's tokens are modulated as clean ones."""
    from diffusers import QwenImageEditPlusPipeline

    parts = _qwen_parts(zero_cond_t=True)
    return QwenImageEditPlusPipeline(**parts, processor=_processor(parts["tokenizer"]))


def _z_image_parts(**options: Any) -> dict[str, Any]:
    return {
        "transformer": transformer(
            "ZImageTransformer2DModel", in_channels=4, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2,
            cap_feat_dim=32, axes_dims=[8, 4, 4], axes_lens=[1024, 32, 32], **options,
        ),
        "scheduler": euler(shift=3.0),
        "vae": plain_vae(4),
        "text_encoder": causal("Qwen3", 2),
        "tokenizer": tokenizer(512),
    }  # fmt: skip


def z_image() -> Any:
    from diffusers import ZImagePipeline

    return ZImagePipeline(**_z_image_parts())


def z_image_omni() -> Any:
    from diffusers import ZImageOmniPipeline
    from transformers import Siglip2ImageProcessorPil, Siglip2VisionConfig, Siglip2VisionModel

    torch.manual_seed(10)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    siglip = louder(Siglip2VisionModel(Siglip2VisionConfig(**sizes, num_patches=16, patch_size=16)))
    return ZImageOmniPipeline(
        **_z_image_parts(siglip_feat_dim=16),
        siglip=siglip,
        siglip_processor=Siglip2ImageProcessorPil(patch_size=16, max_num_patches=24),
    )


def lumina2() -> Any:
    from diffusers import Lumina2Pipeline

    return Lumina2Pipeline(
        transformer=transformer(
            "Lumina2Transformer2DModel", sample_size=16, patch_size=2, in_channels=4, hidden_size=24, num_layers=2,
            num_refiner_layers=1, num_attention_heads=3, num_kv_heads=1, multiple_of=2, axes_dim_rope=(4, 2, 2),
            axes_lens=(512, 128, 128), cap_feat_dim=32,
        ),
        scheduler=euler(shift=6.0), vae=plain_vae(4), text_encoder=causal("Gemma2", 2), tokenizer=tokenizer(512),
    )  # fmt: skip


def sana() -> Any:
    from diffusers import AutoencoderDC, SanaPipeline

    torch.manual_seed(9)
    autoencoder = AutoencoderDC(
        latent_channels=4, attention_head_dim=2, encoder_block_types=("ResBlock",) * 6, decoder_block_types=("ResBlock",) * 6,
        encoder_block_out_channels=(4, 4, 4, 4, 4, 8), decoder_block_out_channels=(4, 4, 4, 4, 4, 8),
        encoder_qkv_multiscales=((),) * 6, decoder_qkv_multiscales=((),) * 6, encoder_layers_per_block=(1,) * 6,
        decoder_layers_per_block=(1,) * 6, upsample_block_type="interpolate", downsample_block_type="stride_conv",
        decoder_norm_types="rms_norm", decoder_act_fns="silu", scaling_factor=0.41407,
    )  # fmt: skip
    return SanaPipeline(
        transformer=transformer(
            "SanaTransformer2DModel", patch_size=1, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=4,
            num_attention_heads=2, num_cross_attention_heads=2, cross_attention_head_dim=4, cross_attention_dim=8,
            caption_channels=32, sample_size=16,
        ),
        scheduler=euler(shift=3.0), vae=autoencoder.eval(), text_encoder=causal("Gemma2", 2), tokenizer=tokenizer(1200),
    )  # fmt: skip


def auraflow() -> Any:
    """As published, its tokenizer tells no types of tokens, and its VAE no shift."""
    from diffusers import AuraFlowPipeline

    return AuraFlowPipeline(
        transformer=transformer(
            "AuraFlowTransformer2DModel", 2.2, sample_size=16, patch_size=2, in_channels=4, out_channels=4,
            num_mmdit_layers=1, num_single_dit_layers=1, attention_head_dim=8, num_attention_heads=4,
            joint_attention_dim=32, caption_projection_dim=32, pos_embed_max_size=64,
        ),
        scheduler=euler(shift=1.73), vae=vae(4, scaling_factor=0.13025), text_encoder=t5(32, "UMT5"),
        tokenizer=tokenizer(512, model_input_names=["input_ids", "attention_mask"]),
    )  # fmt: skip


PIPELINES: dict[str, Callable[[], Any]] = {
    "sd3": sd3,
    "flux": flux,
    "flux2": flux2,
    "qwen_image": qwen_image,
    "qwen_image_edit": qwen_image_edit,
    "z_image": z_image,
    "z_image_omni": z_image_omni,
    "lumina2": lumina2,
    "sana": sana,
    "auraflow": auraflow,
    "wan": wan,
}


# Without torchvision the published classes cannot be built, but they are what folders name.
PUBLISHED_PROCESSORS = {"StillsProcessor": "Qwen2VLProcessor", "TextProcessor": "PixtralProcessor"}


def _as_published(folder: Path, component: str, kind: str, index: dict[str, Any]) -> None:
    """Let a component's folder and its line in the index say that it holds the processor that a publisher has."""
    index[component] = ["transformers", kind]
    config = folder / component / "processor_config.json"
    said = json.loads(config.read_text()) if config.is_file() else {}
    if kind == "PixtralProcessor":
        said |= {"image_token": "[IMG]", "image_break_token": "[IMG_BREAK]", "image_end_token": "[IMG_END]", "patch_size": 14}
        images = {"image_processor_type": "PixtralImageProcessor", "patch_size": {"height": 14, "width": 14}}
        (folder / component / "preprocessor_config.json").write_text(json.dumps(images))
    config.write_text(json.dumps(said | {"processor_class": kind}))


def save(pipeline: Any, folder: Path) -> Any:
    """Write a pipeline as its publisher would; returns it."""
    pipeline.save_pretrained(folder)
    index = folder / "model_index.json"
    content = json.loads(index.read_text())
    for name, (_, kind) in [(name, kind) for name, kind in content.items() if isinstance(kind, list)]:
        if kind in PUBLISHED_PROCESSORS:
            _as_published(folder, name, PUBLISHED_PROCESSORS[kind], content)
    index.write_text(json.dumps(content))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@dataclass(frozen=True)
class Tiny:
    """A stock pipeline, its folder, and the family over that folder."""

    stock: Any
    folder: Path
    family: PipelineFamily
    network: nn.Module


def build(name: str, pipeline: Any, folder: Path) -> Tiny:
    """A family's pipeline in memory and in a folder."""
    family = FAMILIES[name](folder, size=SIZE)
    assert isinstance(family, PipelineFamily)
    return Tiny(save(pipeline, folder), folder, family, family.load_transformer(folder))
