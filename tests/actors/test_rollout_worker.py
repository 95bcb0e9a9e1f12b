"""Real workers whose device fails while they roll out, or whose loading fails half-way."""

import asyncio
import sys
from functools import partial

import pytest
import ray
import torch
from faulty_family import BROKEN, FULL, FaultyFamily, processes
from ray import cloudpickle
from waiting import LIMIT_S

from actors.rollout_pool import RolloutPool
from actors.rollout_worker import PublishedWeights, RolloutWorker
from fields.carriers import Condition, Weights
from fields.lora.peft_files import read_adapter
from fields.method.plan import Group, Sample, Stream, generator, noise
from fields.method.solver import Euler
from fields.method.states import RolloutSettings
from fields.method.time_grid import time_grid
from fields.numerics import Numerics
from fields.policy import Policy
from fields.scene.exam import task_row
from fields.scene.family import SceneFamily
from fields.scene.grammar import draw_task
from fields.student import LoraStudent
from fields.versions import Merged

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test module

GRID = time_grid(4)
SETTINGS = RolloutSettings(seed=0, grid=GRID, solver=Euler())
GROUP = Group(0, "text_to_image", (Sample(0, "text_to_image", 0, (3,)),))  # asks after three forwards
OTHER = Group(0, "realism", tuple(Sample(n, "realism", 0, (3,)) for n in (1, 2)))
CONDITION = SceneFamily().encode([task_row("u", draw_task("single", generator(0, Stream.ROW, 0)))])


def build_policy(family, base, adapter, ranks=None):
    student = LoraStudent(read_adapter(adapter).shape)
    return Policy(family, Merged(family.load_transformer(base), student), lambda size: SETTINGS)


def building(family, tiny_models):
    return partial(build_policy, family, tiny_models.base, tiny_models.local_edit)


@pytest.fixture
def versions(cluster, tiny_models):
    """Two versions of a student."""
    adapters = tiny_models.local_edit, tiny_models.global_edit
    return [Weights.of(n, read_adapter(adapter).tensors) for n, adapter in enumerate(adapters)]


def expected(versions, tiny_models, batch):
    """The states of the first version, and then of the second one, without anything going wrong."""
    policy = building(SceneFamily(), tiny_models)()
    answers = []
    for weights in versions:
        policy.load(weights)
        answers.append(policy.queries(batch, conditions(batch)))
    return answers


def conditions(batch):
    return [Condition.concatenate([CONDITION] * len(group.ids)) for group in batch]


@pytest.mark.parametrize(("error", "survives", "batch"), [(BROKEN, False, (GROUP, OTHER)), (FULL, True, (GROUP,))])
def test_a_fault_in_a_rollout_costs_its_repetition(versions, tiny_models, tmp_path, error, survives, batch):
    """On a broken device by the process that Ray starts in its place, out of memory by the same; of a batch of several groups
    as of one."""
    calls = tmp_path / "calls"
    build = building(FaultyFamily(calls, error, at=(4,)), tiny_models)
    worker = ray.remote(RolloutWorker).options(num_cpus=0.1, max_restarts=-1)

    async def live():
        pool = RolloutPool(lambda number: worker.remote(build, Numerics()), 1, "faulty", LIMIT_S)
        answers = [await pool.queries(batch, conditions(batch), PublishedWeights.put(weights)) for weights in versions]
        pool.end()
        return answers

    for answers, undisturbed in zip(asyncio.run(live()), expected(versions, tiny_models, batch), strict=True):
        for group, (answer, reference), (own,) in zip(batch, answers, undisturbed, strict=True):
            (query,) = answer.sealed.open()
            assert (query.sample_ids, query.routes) == (group.ids, (group.route,) * len(group.ids))
            assert torch.equal(query.x_t, own.x_t)
            assert query.checksum == own.checksum
            assert ray.get(reference).outlines == answer.outlines, "each group is an object of its own"
    first, last = processes(calls)[0], processes(calls)[-1]
    assert processes(calls) == [first] * 5 + [last] * 3
    assert (first == last) == survives


@pytest.mark.slow
def test_a_fault_while_the_learner_asks_for_a_velocity_costs_its_repetition(versions, tiny_models, tmp_path):
    calls = tmp_path / "calls"
    build = building(FaultyFamily(calls, BROKEN, at=(3,)), tiny_models)
    worker = ray.remote(RolloutWorker).options(num_cpus=0.1, max_restarts=-1)

    async def live():
        pool = RolloutPool(lambda number: worker.remote(build, Numerics()), 1, "faulty", LIMIT_S)
        published = PublishedWeights.put(versions[0])
        ((queries, _),) = await pool.queries((GROUP,), [CONDITION], published)
        (query,) = queries.sealed.open()
        velocity = await pool.velocity(query, published)
        pool.end()
        return query, velocity

    query, velocity = asyncio.run(live())
    policy = building(SceneFamily(), tiny_models)()
    policy.load(versions[0])
    assert torch.equal(velocity, policy.answer(query))
    first, last = processes(calls)[0], processes(calls)[-1]
    assert first != last
    assert processes(calls) == [first] * 4 + [last]


def test_a_version_that_was_loaded_half_is_loaded_again(versions, tiny_models):
    """Also the version that was there before, of which a half is left."""
    good, other = versions
    last = max(other.tensors)  # in the order of loading
    broken = PublishedWeights.put(Weights.of(2, {**other.tensors, last: other.tensors[last].mT.contiguous()}))
    worker = RolloutWorker(building(SceneFamily(), tiny_models), numerics=Numerics())
    before = worker.generate(noise(0, (0,), (3, 24, 24)), GRID, CONDITION, PublishedWeights.put(good))
    for _ in range(2):
        with pytest.raises(RuntimeError, match="shape"):
            worker.queries((GROUP,), [CONDITION], broken)
    again = worker.generate(noise(0, (0,), (3, 24, 24)), GRID, CONDITION, PublishedWeights.put(good))
    assert torch.equal(again, before)


def test_a_worker_settles_its_numerics_before_it_loads():
    seen = []

    def build(*_: object) -> Policy:
        seen.append((torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()))
        raise LookupError("no base")

    try:
        for numerics in (Numerics(threads=2, deterministic=False), Numerics()):
            with pytest.raises(LookupError):
                RolloutWorker(build, numerics)
    finally:
        Numerics().settle()
    assert seen == [(2, False), (1, True)]
