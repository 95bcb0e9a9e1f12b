"""Qwen2-VL's processor without its video part, which alone needs torchvision."""

from typing import Any

from transformers import ProcessorMixin, Qwen2VLProcessor


class StillsProcessor(Qwen2VLProcessor):
    """Prepares texts and images as `Qwen2VLProcessor` does."""

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None):
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)
