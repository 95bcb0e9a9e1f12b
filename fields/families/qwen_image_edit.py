"""Qwen-Image-Edit: Qwen-Image whose text encoder and network both see the source image."""

from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from fields.families.pipeline import Named
from fields.families.qwen_image import QwenImageFamily, masked


class QwenImageEditFamily(QwenImageFamily):
    """The source is shown to Qwen2.5-VL, and its tokens follow the image's own. The text is never cut."""

    name = "qwen_image_edit"
    pipelines = ("QwenImageEditPipeline",)
    source = "required"
    max_tokens = None

    def given_parts(self, folder: Path) -> dict[str, Any]:
        from fields.families.stills import StillsProcessor

        return super().given_parts(folder) | {"processor": StillsProcessor.from_pretrained(folder / "processor")}

    def text(self, prompt: str, source: Image.Image | None) -> Named:
        return masked(*self.encoders.encode_prompt(prompt, image=source, device=self.device))

    def source_latents(self, source: Image.Image) -> Tensor:
        image = self.encoders.image_processor.preprocess(source, source.height, source.width)
        return self.encoders._encode_vae_image(image[:, :, None].to(self.device, self.dtype), generator=None)[:, :, 0]
