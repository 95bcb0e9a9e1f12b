"""Qwen-Image-Edit: Qwen-Image whose text encoder and network both see the source image."""

from pathlib import Path
from typing import Any

from PIL import Image

from fields.data.columns import MOST_SOURCES
from fields.data.size import Size
from fields.families.folder import INDEX, fetch, read_json
from fields.families.pipeline import Images, Named
from fields.families.qwen_image import QwenImageFamily, masked

_SHOWN_PIXELS_OF_PLUS = 384 * 384


class QwenImageEditFamily(QwenImageFamily):
    """The source is shown to Qwen2.5-VL, and its tokens follow the image's own. The text is never cut."""

    name = "qwen_image_edit"
    pipelines = ("QwenImageEditPipeline", "QwenImageEditPlusPipeline")
    source = "required"
    max_tokens = None
    text_sees_source = True

    def given_parts(self, folder: Path) -> dict[str, Any]:
        from fields.families.stills import StillsProcessor

        return super().given_parts(folder) | {"processor": StillsProcessor.from_pretrained(folder / "processor")}

    def text(self, prompt: str, sources: Images) -> Named:
        return masked(*self.encoders.encode_prompt(prompt, image=self._shown(sources), device=self.device))

    def widest_text(self, size: Size, sources: int) -> Named:
        """A prompt as long as those of Qwen-Image, and the tokens of the sources: one for 28 x 28 pixels."""
        pixels = _SHOWN_PIXELS_OF_PLUS * sources if self._is_plus else size.width * size.height
        return self._widest(self.longest_prompt + pixels // 28**2)

    @property
    def _is_plus(self) -> bool:
        """Whether the model is of 2509 or later, which takes several sources."""
        return read_json(fetch(self._base, ()) / INDEX)["_class_name"] == "QwenImageEditPlusPipeline"

    @property
    def most_sources(self) -> int:
        return MOST_SOURCES if self._is_plus else 1

    def _shown(self, sources: Images) -> Image.Image | list[Image.Image]:
        """What the text encoder sees: the source, or (Plus) a list of smaller ones."""
        if type(self.encoders).__name__ == "QwenImageEditPipeline":
            return sources[0]
        from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as plus

        sizes = [plus.calculate_dimensions(plus.CONDITION_IMAGE_SIZE, image.width / image.height) for image in sources]
        resize = self.encoders.image_processor.resize
        return [resize(image, height, width) for image, (width, height) in zip(sources, sizes, strict=True)]
