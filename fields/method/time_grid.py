"""The rollout's grid of times as a tensor, by the size of the image."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from fields.data.size import Size
from fields.method.times import rollout_times

Grid = Callable[[Size | None], Float[Tensor, " points"]]  # the times for images of a size; None is the family's default


def time_grid(steps: int, shift: float = 1.0) -> Float[Tensor, " points"]:
    """`rollout_times` as a float32 tensor (N + 1,).

    >>> time_grid(4).tolist()
    [1.0, 0.75, 0.5, 0.25, 0.0]

    Raises:
        ValueError: if `steps` < 1 or `shift` <= 0.
    """
    return torch.tensor(rollout_times(steps, shift), dtype=torch.float32)
