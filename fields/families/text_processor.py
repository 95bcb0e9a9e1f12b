"""A multimodal model's processor without its images, which alone need torchvision."""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, ProcessorMixin


class TextProcessor(ProcessorMixin):
    """Applies the chat template to texts and tokenizes them as every processor of transformers does, `PixtralProcessor` too."""

    def __init__(self, tokenizer: Any = None, chat_template: str | None = None):
        super().__init__(tokenizer, chat_template=chat_template)

    @staticmethod
    def read(folder: Path) -> "TextProcessor":
        """The texts' part of the processor in a folder."""
        tokenizer = AutoTokenizer.from_pretrained(folder)
        return TextProcessor(tokenizer, tokenizer.chat_template)
