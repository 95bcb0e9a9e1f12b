"""Algorithm 1 of DanceOPD (arXiv 2606.27377) as a plain loop in one process: the oracle of the distributed run."""

from collections.abc import Callable, Iterator, Sequence

from fields.carriers import Condition, Example, Query, Weights
from fields.distiller import Distiller
from fields.method.lag import Lag
from fields.method.plan import Batch, Group, SamplePlan
from fields.policy import Policy
from fields.update import Update


def distill(
    plan: SamplePlan,
    encode: Callable[[Group], Condition],
    policy: Policy,
    states: Callable[[Batch, Sequence[Condition]], Sequence[tuple[Query, ...]]],
    learn: Callable[[Group, Query], Example],
    distiller: Distiller,
    published: dict[int, Weights],
    steps: range,
    lag: Lag,
) -> Iterator[tuple[int, Update]]:
    """Distil the experts into the student on the student's own rollouts.

    Args:
        plan: which samples a step has.
        encode: a group's conditions.
        policy: the student as it rolls out; gets the version that a step asks for.
        states: the queries of a batch's groups: `policy.queries`, or those of experts.
        learn: the target of a group's query, by the frozen expert of its route.
        distiller: the student and its optimizer.
        published: version -> weights; holds the published versions from `lag.version(step)` on at entry, and is kept so.
        steps: the optimizer steps to do, 0-based.
        lag: which version a step rolls out with.

    Yields:
        Each step and what its update did.
    """
    for step in steps:
        policy.load(published[lag.version(step)])
        examples = []
        for batch in plan.batches(step):  # m ~ pi, c ~ D_m, x_T ~ N(0, I), i ~ Beta(5, 2)
            asked = states(batch, [encode(group) for group in batch])  # x_t = Rollout(v_theta; x_T, c)[i]
            for queries in zip(*asked, strict=True):
                answered = map(learn, batch, queries)  # u = v_m(sg(x_t), t, c)
                examples.append(Example.joined(list(answered)))
        update = distiller.update(examples)  # || v_theta(sg(x_t), t, c) - u ||^2
        if lag.publishes(step + 1):
            published[step + 1] = distiller.weights(step + 1)
        published.pop(lag.version(step + 1) - lag.published_every, None)  # no later step rolls out with it
        yield step, update
