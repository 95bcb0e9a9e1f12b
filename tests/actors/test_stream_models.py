"""What the stream brings to experts of other models than the student's."""

import asyncio

import ray
import torch
from stream_cases import PLAN, ROUTES, Encoder, Experts, Rollouts, publish

from actors.curriculum import Curriculum
from actors.stream import TargetStream
from fields.carriers import Condition
from fields.data.rows import Row
from fields.method.lag import Lag
from fields.method.teaching import Teaching
from services.encoders import Encoders


def test_an_expert_gets_what_its_own_model_reads_and_nobody_else_does(cluster):
    """Its model encodes rows as their negative; the student's rollout and the other expert don't see it."""

    class OtherEncoder:
        async def encoded(self, rows, with_clean=False, with_empty=True):
            value = torch.tensor([[-float(row.uid)] for row in rows])
            condition = Condition(tensors={"minus": value}, unconditional={})
            return condition, ray.put(condition)

    seen = {}

    class Asked(Experts):
        async def answer(self, names, references, others):
            for name, reference, own in zip(names, references, others, strict=True):
                (query,) = ray.get(reference).sealed.open()
                assert query.condition.others == {}, "the workers have nothing of it"
                minus = {model: ray.get(given).tensors["minus"] for model, given in own.items()}
                seen.setdefault(name, []).append((query.condition.tensors["row"], minus))
            return await super().answer(names, references, others)

    async def first_step():
        stream = TargetStream(
            curriculum=Curriculum(
                encoders=Encoders({None: Encoder(), "other": OtherEncoder()}),
                plan=PLAN,
                buckets={route: [Row(str(n), "t", "p") for n in range(3)] for route in ROUTES},
                experts={"large": Asked(), "own": Asked()},
                teaching=Teaching(shares={route: {"large" if route in "ab" else "own": 1.0} for route in ROUTES}),
                reads={"large": ("other",)},
            ),
            rollouts=Rollouts(),
            steps=range(1),
            lag=Lag(0),
        )
        publish(stream, 0)
        await stream.examples(0)

    asyncio.run(first_step())
    assert all(minus == {} for _, minus in seen["own"])
    assert seen["large"]
    for row, minus in seen["large"]:
        assert torch.equal(minus["other"], -row)
