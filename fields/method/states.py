"""Where the queried states come from: a field's own rollout, or noised data."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fields.carriers import Condition, Query, on_device
from fields.method.plan import Batch, Group, Stream, generator, noise
from fields.method.rollout import rollout
from fields.method.solver import Solver, Velocity


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutSettings:
    """How the states of samples of one size are reached.

    Attributes:
        seed: of the sample plan, which decides all noise.
        grid: times 1 = t_0 > ... > t_N = 0 of the rollout.
        solver: of the ODE, or of the SDE with the same marginals; None noises the rows' target images instead.
        both_branches: whether experts are asked for the velocity without the prompt too.
    """

    seed: int
    grid: Float[Tensor, " points"]
    solver: Solver | None
    both_branches: bool = False


def rolled_out(
    velocity: Velocity,
    batch: Batch,
    condition: Condition,
    shape: tuple[int, ...],
    settings: RolloutSettings,
) -> Float[Tensor, "queries batch ..."]:
    """The states of a batch's samples at their query points, on the rollout of one field.

    Args:
        velocity: of the student (on-policy) or of the expert.
        batch: whose samples.
        condition: one row per sample, on the device that computes.
        shape: of a state.
        settings: of the rollout, with a solver.
    """
    seed, solver = settings.seed, settings.solver
    assert solver is not None, "noised data is no rollout"
    ids = [sample_id for group in batch for sample_id in group.ids]

    def transition_noise(step: int, rows: Tensor) -> Tensor:
        eps = [
            generator(seed, Stream.TRANSITION, ids[row], step).standard_normal(shape, dtype="float32") for row in rows.tolist()
        ]
        return on_device(torch.stack([torch.from_numpy(e) for e in eps]), rows.device)

    device = next(iter(condition.tensors.values())).device
    x_T = on_device(noise(seed, ids, shape), device)
    return rollout(
        velocity,
        x_T,
        settings.grid.to(device),
        torch.cat([group.indices for group in batch]).to(device),
        condition,
        solver,
        transition_noise if solver.stochastic else None,
    )


def noised(clean: Float[Tensor, "batch ..."], group: Group, settings: RolloutSettings) -> Float[Tensor, "queries batch ..."]:
    """x_t = (1 - t) x_0 + t eps of the rows' own target images: the off-policy states."""
    eps = noise(settings.seed, group.ids, tuple(clean.shape[1:]))
    t = settings.grid[group.indices.T].reshape(*group.indices.T.shape, *[1] * (clean.ndim - 1))
    return (1 - t) * clean + t * eps


def queries(
    group: Group,
    states: Float[Tensor, "queries batch ..."],
    condition: Condition,
    settings: RolloutSettings,
    version: tuple[int, str],
) -> tuple[Query, ...]:
    """One query for each of the group's points, from low index (noise) to high: what an expert is sent.

    `version` is policy version and checksum of the weights that rolled out.

    Raises:
        ValueError: if a state is not finite; names the samples.
    """
    return tuple(
        Query(
            sample_ids=group.ids,
            routes=(group.route,) * len(group.ids),
            policy_version=version[0],
            checksum=version[1],
            x_t=x_t.cpu(),
            t=settings.grid[index],
            t_next=settings.grid[index + 1],
            condition=condition,
            both_branches=settings.both_branches,
        )
        for x_t, index in zip(states, group.indices.T, strict=True)
    )
