"""Metrics of generated images, by packages and weights that a user brings."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fields.data.rows import Row
from fields.evaluation.clip import check_clip, load_clip


class Metric(ABC):
    """One number for the images of one route."""

    def check(self, rows: Sequence[Row]) -> None:  # noqa: B027
        """Look at the rows whose images will come; most metrics take any.

        Raises:
            ValueError: if the metric cannot be taken of them.
        """

    @abstractmethod
    def __call__(self, rows: Sequence[Row], images: Sequence[np.ndarray]) -> float:
        """The value for rows and their images, uint8 (H, W, 3) each."""


class ClipScore(Metric):
    """100 times the cosine of image and prompt in CLIP's space, their mean, at least 0 (Hessel et al., arXiv 2104.08718).

    torchmetrics computes it. It is meant for captions; an edit's instruction doesn't say what the whole image shows.

    Args:
        weights: a folder with a CLIP model of `transformers`, in safetensors, with its processor.

    Raises:
        ValueError: if torchmetrics is not installed, or the folder holds no such model; says what is missing.
    """

    def __init__(self, weights: Path):
        if find_spec("torchmetrics") is None:
            raise ValueError("clip_score needs the package torchmetrics, which is not installed: pip install torchmetrics")
        check_clip(weights)
        self._weights = weights
        self._loaded: tuple[nn.Module, Any] | None = None

    @torch.no_grad()
    def __call__(self, rows: Sequence[Row], images: Sequence[np.ndarray]) -> float:
        from torchmetrics.functional.multimodal import clip_score

        pixels = [torch.from_numpy(image).permute(2, 0, 1) for image in images]
        return float(clip_score(pixels, [row.prompt for row in rows], self._load))

    def _load(self) -> tuple[nn.Module, Any]:
        """Model and processor, read when they are first needed and kept."""
        if self._loaded is None:
            from transformers import CLIPProcessor

            processor = CLIPProcessor.from_pretrained(self._weights, local_files_only=True)
            self._loaded = _Features(load_clip(self._weights)), processor
        return self._loaded


class _Features(nn.Module):
    """CLIP as torchmetrics calls it: features as tensors, which `transformers` 5 wraps."""

    def __init__(self, clip: Any):
        super().__init__()
        self.clip = clip
        self.config = clip.config

    def get_image_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.clip.get_image_features(pixel_values).pooler_output

    def get_text_features(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.clip.get_text_features(input_ids, attention_mask).pooler_output
