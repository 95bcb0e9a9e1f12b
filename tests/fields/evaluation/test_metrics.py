"""The CLIP score of a tiny random CLIP against the formula, worked out with `transformers` alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPModel, CLIPProcessor

from fields.data.rows import Row
from fields.evaluation import metrics
from fields.evaluation.metrics import ClipScore, Metric

ROWS = [Row(str(n), "t", prompt) for n, prompt in enumerate(("a red circle", "two dogs", "nothing at all"))]
IMAGES = list(np.random.default_rng(0).integers(256, size=(3, 24, 24, 3), dtype=np.uint8))


def cosines(tiny_clip: Path) -> np.ndarray:
    """By pair, in per cent, one pair at a time."""
    model, processor = CLIPModel.from_pretrained(tiny_clip).eval(), CLIPProcessor.from_pretrained(tiny_clip)
    values = []
    for row, image in zip(ROWS, IMAGES, strict=True):
        inputs = processor(text=[row.prompt], images=[Image.fromarray(image)], return_tensors="pt")
        with torch.no_grad():
            output = model(**inputs)
        values.append(100 * torch.cosine_similarity(output.image_embeds, output.text_embeds).item())
    return np.array(values)


def test_the_score_is_the_mean_cosine_and_not_negative(tiny_clip):
    score = ClipScore(tiny_clip)
    assert isinstance(score, Metric)
    expected = cosines(tiny_clip)
    assert len(set(np.sign(expected))) == 2 or np.ptp(expected) > 1, "pairs that cannot be told apart prove nothing"
    assert score(ROWS, IMAGES) == pytest.approx(max(0.0, expected.mean()), abs=1e-3)
    for n in range(3):
        assert score(ROWS[n : n + 1], IMAGES[n : n + 1]) == pytest.approx(max(0.0, expected[n]), abs=1e-3)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"is no CLIP model: it has no config\.json"):
        ClipScore(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"it has no model\.safetensors"):
        ClipScore(tmp_path)


def test_a_missing_package_is_named(tiny_clip, monkeypatch):
    monkeypatch.setattr(metrics, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs the package torchmetrics, which is not installed"):
        ClipScore(tiny_clip)
