"""Parts of tiny random pipelines: tokenizer, text encoders, VAEs, transformers, schedulers."""

from typing import Any

import torch
from torch import nn

WORDS = ["a", "assistant", "blue", "bright", "cat", "circle", "dark", "dog", "green", "it", "make", "on", "red", "square"]
WORDS += ["the", "under", "user"]
SPECIAL = [
    "<pad>",
    "<s>",
    "</s>",
    "<unk>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
VOCABULARY = len(SPECIAL) + len(WORDS)
CHAT = (
    "{% for m in messages %}<|im_start|> {{ m['role'] }} "
    "{{ m['content'] if m['content'] is string else m['content'][0]['text'] }} <|im_end|>{% endfor %}"
    "{% if add_generation_prompt %} <|im_start|> assistant{% endif %}"
)


def tokenizer(length: int = 77, **options: Any) -> Any:
    """A token for each word and each mark, `<s>` before and `</s>` after."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {word: n for n, word in enumerate([*SPECIAL, *WORDS])}
    inner = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, model_max_length=length, additional_special_tokens=SPECIAL[4:], padding_side="right",
        **names, **options,
    )  # fmt: skip
    made.chat_template = CHAT
    return made


def louder(module: nn.Module, factor: float = 2.5) -> nn.Module:
    """In evaluation mode, and with matrices scaled up, the output's own excepted."""
    for name, parameter in module.named_parameters():
        if parameter.ndim >= 2 and not any(part in name for part in ("proj_out", "final", "norm_out")):
            parameter.data *= factor
    return module.eval()


def clip(hidden: int, projection: int, seed: int, projected: bool = True) -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=VOCABULARY, hidden_size=hidden, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2,
        projection_dim=projection, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(seed)
    return louder((CLIPTextModelWithProjection if projected else CLIPTextModel)(config))


def t5(width: int, kind: str = "T5") -> nn.Module:
    import transformers

    config = getattr(transformers, f"{kind}Config")(
        vocab_size=VOCABULARY, d_model=width, d_kv=8, d_ff=32, num_layers=2, num_heads=2, pad_token_id=0
    )
    torch.manual_seed(3)
    return louder(getattr(transformers, f"{kind}EncoderModel")(config), 1.0)


def causal(kind: str, layers: int, head: bool = False) -> nn.Module:
    """A language model of 32 hidden values."""
    import transformers

    config = getattr(transformers, f"{kind}Config")(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=32, num_hidden_layers=layers, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(4)
    return louder(getattr(transformers, f"{kind}ForCausalLM" if head else f"{kind}Model")(config), 5.0)


def vae(channels: int, kind: str = "AutoencoderKL", **options: Any) -> nn.Module:
    """Eight pixels a latent cell, as in the large models."""
    import diffusers

    torch.manual_seed(5)
    return louder(
        getattr(diffusers, kind)(
            block_out_channels=(8, 8, 8, 8), down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=1, norm_num_groups=4, sample_size=64,
            latent_channels=channels, **options,
        ), 1.5,
    )  # fmt: skip


def plain_vae(channels: int) -> nn.Module:
    made = vae(channels, scaling_factor=0.4, shift_factor=0.1)
    return made


def euler(**options: Any) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(**options)


def transformer(kind: str, factor: float = 2.5, **options: Any) -> nn.Module:
    import diffusers

    torch.manual_seed(6)
    return louder(getattr(diffusers, kind)(**options), factor)
