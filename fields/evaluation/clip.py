"""CLIP as `transformers` saves it: its folder, and how near prompts are to descriptions in its space."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def check_clip(weights: Path) -> None:
    """Refuse a folder without a CLIP model in safetensors.

    Raises:
        ValueError: says what it lacks.
    """
    for name in ("config.json", "model.safetensors"):
        if not (weights / name).is_file():
            raise ValueError(f"{weights} is no CLIP model: it has no {name}")


def load_clip(weights: Path) -> Any:
    """The model of a folder, in evaluation mode."""
    from transformers import CLIPModel

    return CLIPModel.from_pretrained(weights, use_safetensors=True, local_files_only=True).eval()


class ClipScorer:
    """softmax(cosine(prompt, description) / temperature) over the routes (Radford et al., arXiv 2103.00020).

    Args:
        weights: a folder with a CLIP model of `transformers`, in safetensors, with its tokenizer.
        routes: route -> what its rows ask for, in words.
        temperature: of the softmax, above 0; CLIP itself was trained with 0.01.

    Raises:
        ValueError: if the folder holds no such model, there are less than two routes, or the temperature isn't above 0.
    """

    def __init__(self, weights: Path, routes: Mapping[str, str], temperature: float):
        check_clip(weights)
        if len(routes) < 2:
            raise ValueError(f"scores are over at least two routes; there is {', '.join(routes) or 'none'}")
        if not 0 < temperature < float("inf"):
            raise ValueError(f"temperature {temperature}: it must be above 0")
        from transformers import AutoTokenizer

        self._model = load_clip(weights)
        self._tokenizer: Any = AutoTokenizer.from_pretrained(weights, local_files_only=True)
        self._routes = tuple(routes)
        self._temperature = temperature
        self._descriptions = self._directions(list(routes.values()))

    def scores(self, prompts: Sequence[str]) -> list[tuple[tuple[str, float], ...]]:
        """For each prompt, (route, score) pairs whose scores sum to 1; CLIP reads the first 77 tokens of a prompt."""
        logits = self._directions(prompts) @ self._descriptions.T / self._temperature
        return [tuple(zip(self._routes, row, strict=True)) for row in logits.double().softmax(dim=1).tolist()]

    @torch.no_grad()
    def _directions(self, texts: Sequence[str]) -> Float[Tensor, "texts width"]:
        """Unit vectors of texts."""
        tokens = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=self._model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        )  # fmt: skip
        features = self._model.get_text_features(**tokens).pooler_output
        return torch.nn.functional.normalize(features, dim=1)
