"""Algorithm 1 of DanceOPD (arXiv 2606.27377) as a plain loop in one process: the oracle of the distributed run."""

from collections.abc import Callable, Iterator, Mapping

from fields.carriers import Condition, Weights
from fields.distiller import Distiller, Update
from fields.field import Field
from fields.plan import Group, SamplePlan
from fields.policy import Policy


def distill(
    plan: SamplePlan,
    encode: Callable[[Group], Condition],
    policy: Policy,
    experts: Mapping[str, Field],
    distiller: Distiller,
    published: dict[int, Weights],
    steps: range,
    lag: int = 0,
) -> Iterator[tuple[int, Update]]:
    """Distil the experts into the student on the student's own rollouts.

    Args:
        plan: which samples a step has.
        encode: a group's conditions.
        policy: rolls the student out.
        experts: route -> the frozen field that answers it.
        distiller: the student and its optimizer.
        published: version -> weights; holds versions max(0, step - lag) to step on entry and is kept so.
        steps: the optimizer steps to do, 0-based.
        lag: step s rolls out with version max(0, s - lag); 0 is strictly on-policy.

    Yields:
        Each step and what its update did.
    """
    for step in steps:
        policy.load(published[max(0, step - lag)])
        examples = []
        for group in plan.groups(step):  # m ~ pi, c ~ D_m, x_T ~ N(0, I), i ~ Beta(5, 2)
            query = policy.query(group, encode(group))  # x_t = Rollout(v_theta; x_T, c)[i]
            target = experts[group.route].answer(query)  # u = v_m(sg(x_t), t, c)
            examples.append((query, target))
        update = distiller.update(examples)  # || v_theta(sg(x_t), t, c) - u ||^2
        published[step + 1] = distiller.weights(step + 1)
        published.pop(step - lag, None)
        yield step, update
