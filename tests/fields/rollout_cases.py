"""Rollouts of images of every size by one grid."""

from collections.abc import Callable

from torch import Tensor

from fields.data.size import Size
from fields.method.solver import Solver
from fields.method.states import RolloutSettings


def rollouts(seed: int, grid: Tensor, solver: Solver | None) -> Callable[[Size | None], RolloutSettings]:
    return lambda size: RolloutSettings(seed=seed, grid=grid, solver=solver)
