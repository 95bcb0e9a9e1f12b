"""Z-Image."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fields.carriers import Tensors
from fields.data.size import Size
from fields.families.pipeline import Images, Latents, Named, PipelineFamily, blank, nothing_hidden
from fields.operators import Expression
from fields.operators.guidance import ALWAYS, Against, Interval


class ZImageFamily(PipelineFamily):
    """Qwen3's text of any length. The network's time input is 1 - t and its output x_0 - eps; it takes lists of samples."""

    name = "z_image"
    published_latents = "FLUX.1's"
    pipelines = ("ZImagePipeline",)
    transformer_class = "ZImageTransformer2DModel"
    max_tokens = 512
    # DanceOPD 0.2.0, danceopd/backends/zimage_diffsynth.py; train_dreambooth_lora_z_image.py leaves out the feed-forward.
    default_lora_targets = ("to_q", "to_k", "to_v", "to_out.0", "w1", "w2", "w3")

    def guidance(self, of: Expression, scale: float, against: Against = "empty", interval: Interval = ALWAYS) -> Expression:
        """Z-Image's scale counts from the conditional branch: v_c + scale (v_c - v_u)."""
        return super().guidance(of, 1 + scale, against, interval)

    def text(self, prompt: str, sources: Images) -> Named:
        (text,), _ = self.encoders.encode_prompt(
            prompt, self.device, do_classifier_free_guidance=False, max_sequence_length=self.max_tokens
        )
        return {"text": text[None], "mask": torch.ones(1, len(text), dtype=torch.bool)}

    def widest_text(self, size: Size, sources: int) -> Named:
        return {
            "text": blank(self.longest_prompt, self.network_config["cap_feat_dim"]),
            "mask": nothing_hidden(self.longest_prompt),
        }

    def count_tokens(self, prompt: str) -> int:
        messages = [{"role": "user", "content": prompt}]
        options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": True}
        return super().count_tokens(self.encoders.tokenizer.apply_chat_template(messages, **options))

    def call(self, transformer: nn.Module, x_t: Latents, t: Float[Tensor, " batch"], inputs: Tensors) -> Latents:
        texts = [text[:length] for text, length in zip(inputs["text"], inputs["mask"].sum(dim=1).tolist(), strict=True)]
        velocities = transformer(list(x_t[:, :, None].unbind()), 1 - t, texts, return_dict=False)[0]
        return -torch.stack(velocities)[:, :, 0]
