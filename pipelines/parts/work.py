"""What a run has to compute for each sample."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from fields.carriers import GIVEN
from fields.method.plan import Group, SamplePlan
from pipelines.config.location import is_here
from pipelines.config.routing import ScoredRoutingConfig
from pipelines.parts.row_scores import row_shares
from pipelines.parts.run_parts import RunParts

_STEPS = 20  # of the plan, over which is averaged
_MANY_ROWS = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Of a sample, on average over the first steps of a run. Its images have the family's own size.

    Attributes:
        queries: at which experts are asked and the student learns.
        rollout_forwards: of the student.
        expert_forwards: service -> forwards of its networks, with every branch of an expert's expression.
        groups: of a step.
    """

    queries: float
    rollout_forwards: float
    expert_forwards: Mapping[str, float]
    groups: float

    @staticmethod
    def of(parts: RunParts) -> "Work":
        """Of a run; needs no weights, and data only to know whom its rows' scores name."""
        config, plan = parts.config, _plan(parts)
        groups = [group for step in range(_STEPS) for group in plan.groups(step)]
        samples = sum(len(group.samples) for group in groups)
        queries = rollouts = 0.0
        experts = dict.fromkeys((name for name in config.services if name in map(config.service_of, config.experts)), 0.0)
        for group in groups:
            forwards = _rollout(parts, group)
            queries += group.indices.numel()
            rollouts += 0 if config.state.expert_rolls_out else forwards
            for expert in parts.teaching.lesson(group).asked:
                asked = group.indices.numel() * (2 if parts.objective.both_branches else 1)
                asked += forwards if config.state.expert_rolls_out else 0
                branches = len(dict.fromkeys(parts.experts.expression(expert).branches(GIVEN)))
                experts[config.service_of(expert)] += branches * asked
        return Work(
            queries=queries / samples,
            rollout_forwards=rollouts / samples,
            expert_forwards={name: forwards / samples for name, forwards in experts.items()},
            groups=len(groups) / _STEPS,
        )


def _plan(parts: RunParts) -> SamplePlan:
    """The run's, for images of the family's own size; rows that aren't here are many, their scores of all routes alike, and of
    as many source images as any others'."""
    config = parts.config
    plan = replace(parts.plan, size=lambda route, row: parts.family.default_size)
    if config.rollout.mix_routes and not all(is_here(route.data) for route in config.routes.values()):
        plan = replace(plan, sources=lambda route: 0)
    if not isinstance(config.routing, ScoredRoutingConfig):
        return replace(plan, rows=dict.fromkeys(config.routes, _MANY_ROWS))
    if all(is_here(route.data) for route in config.routes.values()):
        return replace(plan, rows={name: len(bucket) for name, bucket in parts.buckets.items()})
    alike = {route: 1 / len(config.routes) for route in config.routes}
    return replace(plan, rows=dict.fromkeys(config.routes, _MANY_ROWS), shares=row_shares(config, lambda route, row: alike))


def _rollout(parts: RunParts, group: Group) -> float:
    """Forwards of the rollouts of a group's samples, each of which ends at that sample's last query."""
    solver = parts.solver
    return 0.0 if solver is None else solver.forwards * float(group.indices[:, -1].sum())
