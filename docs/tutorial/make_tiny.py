"""A stand-in for Stable Diffusion 3.5 and two LoRAs, small enough for any machine: `python docs/tutorial/make_tiny.py FOLDER`.

FOLDER/sd35 is a complete pipeline with random weights (1 MB), FOLDER/realism and FOLDER/anime are LoRAs over it as diffusers
saves them, of ranks 8 and 4. Prompts in two CSV files and photographs with captions stand beside them. Nothing is downloaded.
"""

import csv
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from peft import LoraConfig, get_peft_model_state_dict
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, PreTrainedTokenizerFast, T5Config, T5EncoderModel

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
THINGS = ["cat", "dog", "house", "tree", "boat", "lamp"]
WORDS = [*SPECIAL, "a", "red", "green", "blue", "photo", "of", "anime", "drawing", *THINGS]
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]
LORA_MODULES = [f"attn.{name}" for name in ATTENTION]  # those of diffusers' training script for SD3


def tokenizer(length: int) -> PreTrainedTokenizerFast:
    """A token per word of WORDS."""
    inner = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=length, **names)


def clip() -> CLIPTextModelWithProjection:
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "projection_dim": 32}
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    return CLIPTextModelWithProjection(CLIPTextConfig(vocab_size=len(WORDS), **sizes, **ids))


def pipeline() -> StableDiffusion3Pipeline:
    """Every part that Stable Diffusion 3.5 Medium has, each as small as it goes."""
    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=16, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
            num_attention_heads=4, caption_projection_dim=32, joint_attention_dim=64, pooled_projection_dim=64,
            pos_embed_max_size=16, dual_attention_layers=(0,), qk_norm="rms_norm",
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=AutoencoderKL(
            block_out_channels=(8, 8, 8, 8), down_block_types=("DownEncoderBlock2D",) * 4, layers_per_block=1,
            up_block_types=("UpDecoderBlock2D",) * 4, norm_num_groups=4, sample_size=64, latent_channels=4,
            scaling_factor=0.4, shift_factor=0.1,
        ),
        text_encoder=clip(), tokenizer=tokenizer(77), text_encoder_2=clip(), tokenizer_2=tokenizer(77),
        text_encoder_3=T5EncoderModel(
            T5Config(vocab_size=len(WORDS), d_model=64, d_kv=8, d_ff=32, num_layers=2, num_heads=2, pad_token_id=0)
        ),
        tokenizer_3=tokenizer(512),
    )  # fmt: skip


def save_lora(transformer: SD3Transformer2DModel, folder: Path, rank: int) -> None:
    """A random LoRA, as a training script of diffusers saves one."""
    transformer.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=LORA_MODULES), adapter_name=folder.name)
    tensors = get_peft_model_state_dict(transformer, adapter_name=folder.name)
    StableDiffusion3Pipeline.save_lora_weights(folder, {name: torch.randn_like(value) * 0.2 for name, value in tensors.items()})
    transformer.delete_adapters(folder.name)


def save_rows(folder: Path) -> None:
    """Twelve prompts for the base, twelve for the LoRA `anime`, and six captioned photographs for the LoRA `realism`."""
    for name, text in (("prompts", "a {} {}"), ("anime", "anime drawing of a {} {}")):
        prompts = [text.format(colour, thing) for colour in ("red", "blue") for thing in THINGS]
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["uid", "task", "prompt", "width", "height"])
            writer.writerows([f"{name}-{n}", name, prompt, 64, 64] for n, prompt in enumerate(prompts))
    (folder / "photos").mkdir(exist_ok=True)
    for thing in THINGS:
        Image.effect_noise((64, 64), 60).convert("RGB").save(folder / "photos" / f"{thing}.png")
        (folder / "photos" / f"{thing}.txt").write_text(f"photo of a {thing}")


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    made = pipeline()
    for network in (made.transformer, made.vae, made.text_encoder, made.text_encoder_2):
        for parameter in network.parameters():
            if parameter.ndim >= 2:  # random networks hardly react to their inputs; larger matrices make them
                parameter.data *= 2.0
    made.save_pretrained(folder / "sd35")
    save_lora(made.transformer, folder / "realism", rank=8)
    save_lora(made.transformer, folder / "anime", rank=4)
    save_rows(folder)
    print(f"{folder}: sd35, realism, anime, prompts.csv, anime.csv, photos")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
