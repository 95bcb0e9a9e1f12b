"""What tests of the stream share: a plan, and services and workers that answer with what can be told apart."""

import asyncio

import ray
import torch

from fields.carriers import Condition, Query, Sealed, SealedQueries, Target, Weights
from fields.method.plan import SamplePlan
from fields.method.query import UniformQuery
from fields.method.routing import HardRouting
from fields.method.time_grid import time_grid

ROUTES = ("a", "b", "c", "d")
PLAN = SamplePlan(
    seed=1,
    batch_size=12,
    group_size=5,
    routing=HardRouting(dict.fromkeys(ROUTES, 1.0), "sample"),
    query=UniformQuery("index"),
    grid=lambda size: time_grid(4),
    rows=dict.fromkeys(ROUTES, 3),
)


class Encoder:
    """Every row is its number."""

    async def encode(self, rows, with_clean, with_empty):
        value = torch.tensor([[float(row.uid)] for row in rows])
        return Condition(tensors={"row": value}, unconditional={"row": value} if with_empty else {})


class Rollouts:
    """A state is its sample's id."""

    async def queries(self, batch, conditions, weights):
        return [self._asked(group, condition, weights) for group, condition in zip(batch, conditions, strict=True)]

    def _asked(self, group, condition, weights):
        query = Query(
            sample_ids=group.ids,
            routes=(group.route,) * len(group.ids),
            policy_version=weights.policy_version,
            checksum=weights.checksum,
            x_t=torch.tensor([[float(n)] for n in group.ids]),
            t=torch.full((len(group.ids),), 0.5),
            t_next=torch.full((len(group.ids),), 0.4),
            condition=condition,
        )
        queries = SealedQueries.of((query,))
        return queries, ray.put(queries)


def publish(stream, version, failure=None):
    published = asyncio.get_running_loop().create_future()
    if failure:
        published.set_exception(failure)
    else:
        published.set_result(Weights.of(version, {"w": torch.zeros(1)}))
    stream.publish(version, published)


class Experts:
    """An application that keeps a record of what it was asked, and answers a state with its square."""

    def __init__(self, shared=False):
        self.shared = shared
        self.calls = []

    async def answer(self, names, references, others):
        queries = [ray.get(reference).sealed.open()[0] for reference in references]
        self.calls.append([(name, query.sample_ids) for name, query in zip(names, queries, strict=True)])
        await asyncio.sleep(0.01 * len(self.calls))  # later calls are answered later
        return ray.put(
            [
                Sealed.of((Target(sample_ids=q.sample_ids, expert=name, t=q.t, velocity=q.x_t**2),))
                for name, q in zip(names, queries, strict=True)
            ]
        )
