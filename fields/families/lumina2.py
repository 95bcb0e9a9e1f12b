"""Lumina Image 2.0."""

from jaxtyping import Float
from torch import Tensor, nn

from fields.carriers import Tensors
from fields.data.size import Size
from fields.families.guidance import LengthKept
from fields.families.pipeline import Images, Latents, Named, PipelineFamily, blank, nothing_hidden
from fields.operators import Expression
from fields.operators.guidance import ALWAYS, Against, Interval


class Lumina2Family(PipelineFamily):
    """Gemma's text with a mask, a system prompt before the prompt. The network takes 1 - t and answers x_0 - eps."""

    name = "lumina2"
    published_latents = "FLUX.1's"
    pipelines = ("Lumina2Pipeline",)
    transformer_class = "Lumina2Transformer2DModel"
    max_tokens = 256
    default_lora_targets = ("to_q", "to_k", "to_v", "to_out.0")  # train_dreambooth_lora_lumina2.py of diffusers

    @property
    def vae_scale(self) -> int:
        return 8  # its pipeline fixes it

    def shift(self, size: Size | None, steps: int) -> float:
        """Its pipeline takes the channels for the length; it matters only to a scheduler that shifts by resolution."""
        return self._shift_of_length(self.latent_shape(size)[0])

    def guidance(self, of: Expression, scale: float, against: Against = "empty", interval: Interval = ALWAYS) -> Expression:
        """Keeps the length of each row of each channel of the latents, as its pipeline does."""
        return LengthKept(super().guidance(of, scale, against, interval), _row_lengths)

    def text(self, prompt: str, sources: Images) -> Named:
        text, mask, *_ = self.encoders.encode_prompt(
            prompt, do_classifier_free_guidance=False, device=self.device, max_sequence_length=self.max_tokens
        )
        return {"text": text, "mask": mask}

    def negative_text(self, prompt: str, sources: Images) -> Named:
        """Without the system prompt."""
        *_, text, mask = self.encoders.encode_prompt(
            "", negative_prompt=[prompt], device=self.device, max_sequence_length=self.max_tokens
        )
        return {"text": text, "mask": mask}

    def widest_text(self, size: Size, sources: int) -> Named:
        return {
            "text": blank(self.longest_prompt, self.network_config["cap_feat_dim"]),
            "mask": nothing_hidden(self.longest_prompt),
        }

    def count_tokens(self, prompt: str) -> int:
        return super().count_tokens(f"{self.encoders.system_prompt} <Prompt Start> {prompt}")

    def call(self, transformer: nn.Module, x_t: Latents, t: Float[Tensor, " batch"], inputs: Tensors) -> Latents:
        return -transformer(
            hidden_states=x_t,
            timestep=1 - t,
            encoder_hidden_states=inputs["text"],
            encoder_attention_mask=inputs["mask"],
            return_dict=False,
        )[0]


def _row_lengths(velocity: Tensor) -> Tensor:
    return velocity.norm(dim=-1, keepdim=True)
