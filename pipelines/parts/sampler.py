"""A model as it makes images outside of a run: a family's network, with or without an adapter, and its own ODE."""

from pathlib import Path

import numpy as np
import torch

from fields.carriers import Condition
from fields.data.rows import Row
from fields.field import Field
from fields.lora.formats import load_adapter
from fields.method.plan import Stream, noise
from fields.method.rollout import generate
from fields.operators import Network
from fields.registry import FAMILIES


class Sampler:
    """Images of rows, each decided by its row, the seed and its number.

    Args:
        family: kind of model.
        model: folder of the base.
        adapter: of a student or an expert; None is the base itself.
        steps: Euler steps from noise to clean.
        guidance: scale as the model's own pipeline counts it; None is the network as it is.
        seed: of the noise.
        dtype: in which the networks compute.

    Raises:
        ValueError: if the family is unknown, or the files don't hold such a model or an adapter that fits it.
    """

    def __init__(
        self,
        family: str,
        model: Path,
        adapter: Path | None,
        steps: int,
        guidance: float | None,
        seed: int,
        dtype: str = "float32",
    ):
        if family not in FAMILIES:
            raise ValueError(f"unknown family {family!r}; allowed: {', '.join(FAMILIES)}")
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._family = FAMILIES[family](model, getattr(torch, dtype), device=device)
        self._steps = steps
        self._seed = seed
        name = str(adapter or model)
        transformer = self._family.load_transformer(model)
        self._field = Field.build(
            name,
            self._family,
            {name: (transformer, load_adapter(adapter, transformer) if adapter else None)},
            None if guidance is None else self._family.guidance(Network(name), guidance),
            device,
        )

    def images(self, row: Row, numbers: range) -> np.ndarray:
        """Images of one row, float32 (len(numbers), 3, H, W), or clips (len(numbers), 3, frames, H, W), [0, 1] up to overshoot.

        Raises:
            ValueError: if the row cannot be encoded; names it.
        """
        condition = Condition.concatenate([self._family.encode([row])] * len(numbers))
        size = self._family.size(row)
        x_T = noise(self._seed, numbers, self._family.latent_shape(size), Stream.QUESTION_NOISE)
        x_0 = generate(self._field.velocity, x_T, self._family.grid(size, self._steps), condition, self._field.device)
        return self._family.decode(x_0)
