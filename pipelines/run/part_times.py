"""What each part of a step takes, in one process, one part after the other."""

import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from fields.carriers import Example, Query
from fields.method.plan import Group
from pipelines.parts.pace import StepSeconds
from pipelines.parts.run_parts import RunParts
from pipelines.run.one_process import OneProcess

P = ParamSpec("P")
T = TypeVar("T")


def part_times(parts: RunParts, steps: int) -> list[StepSeconds]:
    """The seconds of the first `steps` optimizer steps, after one that warms up; `beside` is the publication of the weights.

    Raises:
        ConfigError: if a part has no memory for its largest group.
    """
    parts.config.numerics.build().settle()
    one = OneProcess(parts)
    one.policy.load(one.distiller.weights(0))
    return [_step(one, parts, step) for step in range(steps + 1)][1:]


def _step(one: OneProcess, parts: RunParts, step: int) -> StepSeconds:
    teaching, service_of = parts.teaching, parts.config.service_of
    seconds = {"encode": 0.0, "rollout": 0.0, "learner": 0.0, "publish": 0.0}
    experts = dict.fromkeys(map(service_of, parts.config.experts), 0.0)

    def timed(into: dict[str, float], part: str, function: Callable[P, T], *inputs: P.args, **options: P.kwargs) -> T:
        began = time.perf_counter()
        result = function(*inputs, **options)
        into[part] += time.perf_counter() - began
        return result

    examples = []

    def example(group: Group, query: Query) -> Example:
        lesson = teaching.lesson(group)
        answers = {expert: timed(experts, service_of(expert), one.answer, expert, query) for expert in lesson.asked}
        return lesson.example(query, answers)

    for batch in parts.plan.batches(step):
        conditions = [timed(seconds, "encode", one.encode, group) for group in batch]
        for queries in zip(*timed(seconds, "rollout", one.states, batch, conditions), strict=True):
            examples.append(Example.joined(list(map(example, batch, queries))))
    timed(seconds, "learner", one.distiller.update, examples)
    weights = timed(seconds, "publish", one.distiller.weights, step + 1)
    timed(seconds, "publish", lambda: weights.checksum)
    return StepSeconds(
        encode=seconds["encode"],
        rollout=seconds["rollout"],
        experts=experts,
        learner=seconds["learner"],
        beside=seconds["publish"],
    )
