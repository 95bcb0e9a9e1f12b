"""Experts that several processes hold together, as real Serve applications: the bits of one process, and one life."""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray import cloudpickle, serve
from torch.distributed.tensor import DTensor
from waiting import LIMIT_S, wait_for

from fields.carriers import Condition, Query, SealedQueries, Target
from fields.data.size import Size
from fields.field import Field
from fields.lora.peft_files import read_adapter
from fields.memory.cost import Pass
from fields.method.plan import Group, Sample, Stream, generator, noise
from fields.method.rollout import generate
from fields.method.solver import Euler
from fields.method.states import RolloutSettings
from fields.method.time_grid import time_grid
from fields.numerics import Numerics
from fields.operators import Guidance, Network
from fields.ranks.ordered import OrderedRanks
from fields.ranks.ranks import Ranks
from fields.scene.exam import task_row
from fields.scene.family import SceneFamily
from fields.scene.grammar import draw_task
from fields.shared_field import Member, SharedField
from services.applications import delete, deploy, replicas, scale
from services.client import CallLimits
from services.expert import ExpertService
from services.expert_client import ExpertClient
from services.resources import Resources
from services.shared_experts import SharedExpertsService

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # replicas cannot import a test module

APPLICATION = "ranked"
CPU = torch.device("cpu")
GROUPS = [OrderedRanks(rank, 2, CPU, timeout_s=60.0, shards=True) for rank in range(2)]
RESOURCES = Resources(num_cpus=0.1, ranks=2)
GRID = time_grid(4)


class MarkingFamily(SceneFamily):
    """Marks in a folder which processes compute."""

    def __init__(self, folder: Path):
        super().__init__()
        self._folder = folder

    def velocity(self, *arguments: Any) -> torch.Tensor:
        (self._folder / f"computes-{os.getpid()}").touch()
        return super().velocity(*arguments)


def own_field(name: str, family: SceneFamily, models: Any, ranks: Ranks | None = None) -> Field:
    """The base, an adapter over it, or the adapter guided against what it says to the empty prompt."""
    adapter = None if name == "base" else read_adapter(models.local_edit)
    expression = Guidance(Network(name), 2.5) if name == "guided" else None
    return Field.build(name, family, {name: (family.load_transformer(models.base), adapter)}, expression, CPU, ranks)


def shared_field(family: SceneFamily, models: Any, ranks: Ranks | None = None) -> SharedField:
    adapters = {"base": None, "local": read_adapter(models.local_edit), "global": read_adapter(models.global_edit)}
    members = {name: Member(Network("0"), (name,)) for name in adapters}
    members["guided"] = Member(Guidance(Network("0"), 2.5), ("local",))
    return SharedField(family, family.load_transformer(models.base), adapters, members, CPU, ranks)


def _held(field: Any, folder: Path) -> None:
    """Write down how many values of frozen weights this process holds."""
    networks = [field.transformer] if isinstance(field, SharedField) else list(field.transformers.values())
    values = [parameter for network in networks for parameter in network.parameters()]
    held = sum((value.to_local() if isinstance(value, DTensor) else value).numel() for value in values)
    (folder / str(os.getpid())).write_text(str(held))


class TellingExpert(ExpertService):
    async def held(self, folder: Path) -> int:
        await self._ask(_held, folder)
        return os.getpid()


class TellingShared(SharedExpertsService):
    async def held(self, folder: Path) -> int:
        await self._ask(_held, folder)
        return os.getpid()


Deploy = Callable[..., None]


@pytest.fixture
def deployed(cluster) -> Iterator[Deploy]:
    def start(service: type, build: Callable[[Ranks], Any]) -> None:
        deployment = serve.deployment(name="ranked", **RESOURCES.deployment_options())(service)
        deploy({APPLICATION: deployment.bind(build, Numerics(), {}, GROUPS)})

    yield start
    delete([APPLICATION])
    wait_for(lambda: APPLICATION not in serve.status().applications, "the application's end")


def condition(rows: int) -> Condition:
    """Of edits, which have a source image."""
    tasks = [task_row(f"u{n}", draw_task("remove", generator(0, Stream.ROW, n))) for n in range(rows)]
    return SceneFamily().encode(tasks)


def query(*sample_ids: int) -> Query:
    at = condition(len(sample_ids))
    t = torch.full((len(sample_ids),), 0.4)
    x_t = noise(0, sample_ids, (3, 24, 24))
    return Query(
        sample_ids=sample_ids,
        routes=("r",) * len(sample_ids),
        policy_version=0,
        checksum="",
        x_t=x_t,
        t=t,
        t_next=t / 2,
        condition=at,
        both_branches=True,
    )


def client(shared: bool = False) -> ExpertClient:
    return ExpertClient(APPLICATION, "ranked", "test", CallLimits(), shared=shared)


async def answers(expert: ExpertClient, names: list[str], asked: list[tuple[Query, ...]]) -> list[tuple[Target, ...]]:
    """What experts say to the queries of their tuples."""
    said = await expert.answer(names, [ray.put(SealedQueries.of(own)) for own in asked])
    return [sealed.open() for sealed in await said]


def told(folder: Path) -> tuple[dict[int, int], int]:
    """The values that each process of a replica holds, and which of them is asked."""
    asked = serve.get_app_handle(APPLICATION).held.remote(folder).result()
    return {int(path.name): int(path.read_text()) for path in folder.iterdir() if path.name.isdecimal()}, asked


def size(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.slow  # the bits of one are among the quick tests, where a call was refused before
@pytest.mark.parametrize("name", ["guided", "base"])
def test_an_expert_of_two_processes_answers_with_the_bits_of_one(deployed, tiny_models, tmp_path, name):
    family = SceneFamily()
    deployed(TellingExpert, partial(own_field, name, family, tiny_models))
    alone = own_field(name, family, tiny_models)
    group = Group(0, "r", (Sample(7, "r", 0, (3,)), Sample(8, "r", 1, (2,))))
    settings = RolloutSettings(seed=0, grid=GRID, solver=Euler())

    async def ask() -> None:
        expert = client()
        await expert.rehearse(Pass(2, Size(24, 24), sources=1))
        for asked in (query(0, 1, 2), query(3)):  # other shapes
            ((answered,),) = await answers(expert, [name], [(asked,)])
            expected = alone.answer(asked)
            assert torch.equal(answered.velocity, expected.velocity)
            assert answered.unconditional is not None
            assert expected.unconditional is not None
            assert torch.equal(answered.unconditional, expected.unconditional)
        rolled_out, _ = await expert.queries(name, group, condition(2), settings)
        assert torch.equal(rolled_out.sealed.open()[0].x_t, alone.queries(group, condition(2), settings)[0].x_t)
        at = noise(1, (0, 1), (3, 24, 24)), GRID, condition(2)
        assert torch.equal(await expert.generate(name, *at), generate(alone.velocity, *at, CPU))

    asyncio.run(ask())
    held, _ = told(tmp_path)
    whole = size(alone.transformers[name])
    assert len(held) == 2
    assert all(0.45 * whole < values < 0.55 * whole for values in held.values()), held


@pytest.mark.slow
def test_shared_experts_of_two_processes_answer_with_the_bits_of_one(deployed, tiny_models, tmp_path):
    family = SceneFamily()
    deployed(TellingShared, partial(shared_field, family, tiny_models))
    alone = shared_field(family, tiny_models)

    async def ask() -> None:
        experts = client(shared=True)
        names, asked = ["local", "global", "base", "guided"], [(query(0, 1),), (query(2), query(3)), (query(4),), (query(5),)]
        for answered, expected in zip(await answers(experts, names, asked), alone.answer(names, asked), strict=True):
            for one, other in zip(answered, expected, strict=True):
                assert torch.equal(one.velocity, other.velocity)
        at = noise(1, (0, 1), (3, 24, 24)), GRID, condition(2)
        for name in names:
            assert torch.equal(await experts.generate(name, *at), generate(partial(alone.velocity, name), *at, CPU))

    asyncio.run(ask())
    held, _ = told(tmp_path)
    whole = size(alone.transformer)
    assert len(held) == 2
    assert all(0.45 * whole < values < 0.55 * whole for values in held.values()), held


def alive(process: int) -> bool:
    """Whether it runs: one that has ended and waits for its parent does not."""
    with suppress(FileNotFoundError):
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


@pytest.mark.slow  # a replica of two processes is replaced in the next test, too
@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_rank_costs_a_repeated_call_and_its_whole_replica(deployed, tiny_models, tmp_path, blow):
    """It is killed, or hangs, while both compute."""
    family, before, after = MarkingFamily(tmp_path), tmp_path / "before", tmp_path / "after"
    deployed(TellingExpert, partial(own_field, "local", family, tiny_models))
    for folder in (before, after):
        folder.mkdir()
    held, asked = told(before)
    (other,) = held.keys() - {asked}
    at = noise(1, (0, 1), (3, 24, 24)), time_grid(200), condition(2)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(lambda: asyncio.run(client().generate("local", *at)))
        wait_for((tmp_path / f"computes-{other}").exists, "the second process at work", every_s=0.01)
        os.kill(other, blow)
        assert torch.equal(answer.result(), generate(own_field("local", SceneFamily(), tiny_models).velocity, *at, CPU))
    wait_for(lambda: not any(map(alive, held)), lambda: f"the end of both processes of the replica: {held}")
    anew, _ = told(after)
    assert len(anew) == 2
    assert not anew.keys() & held.keys()


@pytest.mark.slow  # what ranks of one base compute is tested in tests/fields/ranks/test_ranks.py
def test_what_torch_refuses_in_every_process_alike_is_raised_at_once_and_the_next_call_is_answered(deployed, tiny_models):
    """Only its text tells it from a lost exchange, so both processes are replaced."""
    deployed(TellingExpert, partial(own_field, "local", SceneFamily(), tiny_models))
    at = GRID, condition(2)
    with pytest.raises(RuntimeError, match=r"mat1 and mat2 shapes cannot be multiplied"):
        asyncio.run(client().generate("local", noise(1, (0, 1), (5, 24, 24)), *at))
    x_1 = noise(1, (0, 1), (3, 24, 24))
    answered = asyncio.run(client().generate("local", x_1, *at))
    assert torch.equal(answered, generate(own_field("local", SceneFamily(), tiny_models).velocity, x_1, *at, CPU))


@pytest.mark.slow
def test_replicas_of_several_processes_come_and_go_while_calls_go_on(deployed, tiny_models, tmp_path):
    deployed(TellingExpert, partial(own_field, "local", MarkingFamily(tmp_path), tiny_models))
    at = noise(1, (0, 1), (3, 24, 24)), GRID, condition(2)
    expected = generate(own_field("local", SceneFamily(), tiny_models).velocity, *at, CPU)
    first, asked = told(tmp_path)
    done = threading.Event()

    async def ask_on() -> int:
        expert, count = client(), 0
        while not done.is_set():
            for answered in await asyncio.gather(*(expert.generate("local", *at) for _ in range(6))):
                assert torch.equal(answered, expected)
                count += 1
        return count

    def computing() -> set[int]:
        return {int(path.name.removeprefix("computes-")) for path in tmp_path.glob("computes-*")}

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(lambda: asyncio.run(ask_on()))
        try:
            scale(APPLICATION, 3, timeout_s=LIMIT_S)
            wait_for(lambda: len(computing()) == 6 or asking.done(), lambda: f"six processes at work; {computing()} were")
            scale(APPLICATION, 1, timeout_s=LIMIT_S)
            wait_for(lambda: sum(map(alive, computing())) == 2 or asking.done(), "the end of four processes")
        finally:
            done.set()
        assert asking.result() >= 6
    assert replicas(APPLICATION) == 1
    assert len(computing()) == 6
    assert first.keys() <= computing()
    assert asked in computing()
