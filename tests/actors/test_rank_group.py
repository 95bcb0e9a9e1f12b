"""Ranks that are real actors: what is said when one of them hangs or refuses."""

import asyncio
import os
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import ray
import torch
from ray import cloudpickle
from waiting import LIMIT_S

from actors.example_reference import AnswerReference, ExampleReference, GroupReference, fetched
from actors.hang_limit import HangLimit
from actors.learner_rank import LearnerRank
from actors.rank_group import RankGroup, RankHere, RanksLost
from fields.carriers import Outline, Sealed, SealedQueries, Target
from fields.distiller import Distiller
from fields.lora.adapter import LoraShape
from fields.memory.cost import Pass
from fields.memory.rehearsal import largest_query
from fields.method.optimization import Optimization
from fields.method.teaching import Lesson
from fields.numerics import Numerics
from fields.ranks.ordered import OrderedRanks
from fields.ranks.ranks import Alone, Ranks
from fields.scene.family import SceneFamily
from fields.student import LoraStudent

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # ranks cannot import a test module

PATIENCE_S = 5.0


class Pid(LearnerRank):
    """Tells its process, for a test to stop it."""

    def pid(self) -> int:
        return os.getpid()


@pytest.fixture(params=[False])
def ranks(cluster, tiny_models, request):
    """Two, which share the base or hold it each."""
    base = tiny_models.base

    def build(ranks):
        return lora_distiller(base, ranks)

    group = [OrderedRanks(rank, 2, torch.device("cpu"), PATIENCE_S, request.param) for rank in range(2)]
    actors = [ray.remote(Pid).options(num_cpus=0.1).remote(build, own, Numerics(), "test") for own in group]
    yield actors
    RankGroup(actors, "mean").end()


def lora_distiller(base: Path, ranks: Ranks) -> Distiller:
    family = SceneFamily()
    shape = LoraShape(4, 4.0, ("to_qkv",))
    return Distiller(family, family.load_transformer(base), LoraStudent(shape), Optimization(), 0, ranks=ranks)


def example(*sample_ids: int, velocity: float = 1.0) -> ExampleReference:
    query = largest_query(SceneFamily(), Pass(len(sample_ids), SceneFamily.own_size))
    query = replace(query, sample_ids=sample_ids)
    target = Target(sample_ids=sample_ids, expert="x", t=query.t, velocity=torch.full_like(query.x_t, velocity))
    answer = AnswerReference(ray.put([Sealed.of((target,))]), 0)
    lesson = Lesson(shares={"x": (1.0,) * len(sample_ids)})
    group = GroupReference(queries=ray.put(SealedQueries.of((query,))), answers={"x": answer}, lesson=lesson)
    return ExampleReference(groups=(group,), place=0, outline=Outline.of(query))


def test_weights_are_those_of_their_moment_whatever_is_learned_before_they_come(ranks, tiny_models):
    """The next update is asked for first, by which the order in which the ranks are asked would show."""

    def build(ranks):
        return lora_distiller(tiny_models.base, ranks)

    async def learn(group: RankGroup) -> list[str]:
        await group.load()
        taken = []
        for step in range(3):
            weights, update = group.weights(step), group.update([example(0, 1), example(2)])
            await update
            taken.append((await weights).checksum)
        return taken

    here = asyncio.run(learn(RankGroup([RankHere(LearnerRank(build, Alone(), Numerics(), "test"))], "mean")))
    one_by_one = build(Alone())
    expected = []
    for step in range(3):
        expected.append(one_by_one.weights(step).checksum)
        one_by_one.update(list(fetched([example(0, 1), example(2)])))
    assert here == expected == asyncio.run(learn(RankGroup(ranks, "mean")))
    assert len(set(expected)) == 3


@pytest.mark.parametrize(
    ("ranks", "shards"), [(False, False), pytest.param(True, True, marks=pytest.mark.slow)], indirect=["ranks"]
)
def test_a_rank_that_hangs_is_named(ranks, shards):
    async def learn() -> None:
        group = RankGroup(ranks, "mean", shards)
        await group.load()
        update = await group.update([example(0, 1), example(2)])
        assert update.route_samples == {"rehearsal": 3}
        os.kill(ray.get(ranks[1].pid.remote()), signal.SIGSTOP)
        await group.update([example(0, 1), example(2)])

    with pytest.raises(RanksLost, match=r"ended: none, that did not come: \[1\]"):
        asyncio.run(learn())


def test_an_update_that_hangs_everywhere_is_given_up(ranks):
    """The other rank waits for the frozen one longer than the watchdog does."""

    async def learn() -> None:
        group = RankGroup(ranks, "mean")
        await group.load()
        await group.update([example(0, 1), example(2)])
        group._limit = HangLimit(1.0, first_s=1.0)
        os.kill(ray.get(ranks[1].pid.remote()), signal.SIGSTOP)
        os.kill(ray.get(ranks[0].pid.remote()), signal.SIGSTOP)
        await group.update([example(0, 1), example(2)])

    with pytest.raises(RanksLost, match=r"ended: none, that did not come: \[0, 1\]"):
        asyncio.run(learn())


def test_a_process_whose_update_hangs_ends_itself(monkeypatch):
    ended: list[int] = []
    monkeypatch.setattr("actors.rank_group.os._exit", ended.append)
    monkeypatch.setattr("actors.rank_group._GRACE_S", 0.1)
    released = threading.Event()

    class Hanging:
        def __getattr__(self, name: str):
            return lambda *arguments: released.wait(LIMIT_S)

    async def learn() -> None:
        group = RankGroup([RankHere(Hanging())], "mean")  # pyright: ignore[reportArgumentType]
        group._limit = HangLimit(0.1, first_s=0.1)
        with pytest.raises(RanksLost, match="did not come"):
            await group.update([])
        group.end()
        released.set()

    asyncio.run(learn())
    assert ended == [1]


@pytest.mark.slow
def test_a_rank_that_hangs_while_no_other_waits_for_it_is_named(ranks, monkeypatch):
    """Rank 1 has nothing to say of the weights, and says so at once."""
    monkeypatch.setattr("actors.rank_group._APART_S", PATIENCE_S)

    async def learn() -> None:
        group = RankGroup(ranks, "mean")
        await group.load()
        os.kill(ray.get(ranks[0].pid.remote()), signal.SIGSTOP)
        await group.weights(0)

    with pytest.raises(RanksLost, match=r"ended: none, that did not come: \[0\]"):
        asyncio.run(learn())


def test_it_is_said_that_no_rank_answers(monkeypatch, caplog):
    monkeypatch.setattr("actors.rank_group._SILENT_S", 0.01)

    async def answers_when_that_is_said() -> str:
        while not caplog.messages:
            await asyncio.sleep(0.01)
        return "here"

    assert asyncio.run(RankGroup([], "mean")._all([answers_when_that_is_said()])) == ["here"]
    assert "no learner rank has answered for 0 s: they compute, or have no place on the cluster's nodes" in caplog.messages


def test_a_rank_that_ended_is_named_whatever_the_others_say(ranks):
    async def learn() -> None:
        group = RankGroup(ranks, "mean")
        await group.load()
        os.kill(ray.get(ranks[1].pid.remote()), signal.SIGKILL)
        await group.update([example(0, 1, velocity=3e38), example(2)])

    with pytest.raises(RanksLost, match=r"ended: \[1\], that did not come: none .*loss is not finite"):
        asyncio.run(learn())


def test_what_a_rank_refuses_is_raised_as_it_is_and_not_as_a_lost_rank(ranks):
    """The other rank waits for it, and says so; but it isn't the one to blame."""

    async def learn() -> None:
        group = RankGroup(ranks, "mean")
        await group.load()
        await group.update([example(0, 1), example(2, velocity=3e38)])

    with pytest.raises(FloatingPointError, match=r"loss is not finite: rehearsal, answered by x, samples \(2,\)"):
        asyncio.run(learn())


@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"), RanksLost),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), torch.OutOfMemoryError),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), RuntimeError),
    ],
)
def test_a_rank_with_a_broken_device_is_lost_and_one_that_says_something_else_is_not(error, seen):
    async def raised() -> None:
        raise error

    async def answered() -> None:
        return None

    with pytest.raises(seen):
        asyncio.run(RankGroup([], "mean", shards=True)._all([answered(), raised()]))
