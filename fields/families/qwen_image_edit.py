"""Qwen-Image-Edit: Qwen-Image whose text encoder and network both see the source image."""

from pathlib import Path
from typing import Any

from PIL import Image

from fields.data.size import Size
from fields.families.folder import INDEX, fetch, read_json
from fields.families.pipeline import Named
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

    def text(self, prompt: str, source: Image.Image | None) -> Named:
        assert source is not None
        return masked(*self.encoders.encode_prompt(prompt, image=self._shown(source), device=self.device))

    def widest_text(self, size: Size, edits: bool) -> Named:
        """A prompt as long as those of Qwen-Image, and the tokens of the source: one for 28 x 28 pixels."""
        plus = read_json(fetch(self._base, ()) / INDEX)["_class_name"] == "QwenImageEditPlusPipeline"
        pixels = _SHOWN_PIXELS_OF_PLUS if plus else size[0] * size[1]
        return self._widest(self.longest_prompt + pixels // 28**2)

    def _shown(self, source: Image.Image) -> Image.Image | list[Image.Image]:
        """What the text encoder sees: the source, or (Plus, of 2509 and later) the first of a list of smaller ones."""
        if type(self.encoders).__name__ == "QwenImageEditPipeline":
            return source
        from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as plus

        width, height = plus.calculate_dimensions(plus.CONDITION_IMAGE_SIZE, source.width / source.height)
        return [self.encoders.image_processor.resize(source, height, width)]
