"""Z-Image-Omni: Z-Image that edits."""

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from fields.carriers import Tensors
from fields.data.columns import MOST_SOURCES
from fields.data.size import Size
from fields.families.pipeline import Images, Latents, Named, blank, source_inputs
from fields.families.z_image import ZImageFamily

_SEEN_PATCHES = (16, 16)  # by SigLIP 2: at most 256


class ZImageOmniFamily(ZImageFamily):
    """A source is seen twice: as clean tokens before the image's own, and by SigLIP 2, whose tokens come last.

    A text is cut where images stand in it; the network takes its parts as a list.
    """

    name = "z_image_omni"
    pipelines = ("ZImageOmniPipeline",)
    source = "optional"
    passed_over = ("siglip_refiner",)  # a sample without a source image has nothing for it

    @property
    def most_sources(self) -> int:
        return MOST_SOURCES

    def text(self, prompt: str, sources: Images) -> Named:
        (parts,), _ = self.encoders.encode_prompt(
            [prompt],
            self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=self.max_tokens,
            num_condition_images=len(sources),
        )
        numbers = [torch.full((len(part),), n) for n, part in enumerate(parts, start=1)]
        return {"text": torch.cat(parts)[None], "part": torch.cat(numbers)[None]}  # 0 is what a shorter row is padded with

    def widest_text(self, size: Size, sources: int) -> Named:
        """One part, or, with sources, the few tokens of the template before, between and after them too."""
        lengths = [5, *[4] * (sources - 1), self.longest_prompt, 4] if sources else [self.longest_prompt]
        parts = torch.cat([torch.full((length,), n) for n, length in enumerate(lengths, start=1)])
        return {"text": blank(len(parts), self.network_config["cap_feat_dim"]), "part": parts[None]}

    def widest_source(self, size: Size) -> Named:
        return super().widest_source(size) | {"seen": blank(*_SEEN_PATCHES, self.network_config["siglip_feat_dim"])}

    def source_tensors(self, image: Image.Image) -> Named:
        (seen,), *_ = self.encoders.prepare_siglip_embeds([image], 1, self.device, self.dtype)
        return super().source_tensors(image) | {"seen": seen[None]}

    def call(self, transformer: nn.Module, x_t: Latents, t: Float[Tensor, " batch"], inputs: Tensors) -> Latents:
        numbers = range(1, int(inputs["part"].max()) + 1)
        lengths = [[int((part == n).sum()) for n in numbers] for part in inputs["part"].cpu()]
        texts = [list(text[: sum(row)].split(row)) for text, row in zip(inputs["text"], lengths, strict=True)]
        images = [[image] for image in x_t[:, :, None]]
        seen: list[list[Tensor | None] | None] = [None] * len(images)
        if sources := source_inputs(inputs):
            clean = zip(*(source[:, :, None] for source in sources), strict=True)
            images = [[*own, *image] for own, image in zip(clean, images, strict=True)]
            seen = [[*features, None] for features in zip(*source_inputs(inputs, "seen"), strict=True)]
        velocities = transformer(
            images,
            1 - t,
            texts,
            siglip_feats=seen,
            image_noise_mask=[[0] * (len(row) - 1) + [1] for row in images],
            return_dict=False,
        )[0]
        return -torch.stack(velocities)[:, :, 0]
