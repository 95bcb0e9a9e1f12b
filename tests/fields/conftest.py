"""The tiny model as the tests of the method want it: fresh networks, adapters in memory, encoded conditions."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from distiller_cases import SHAPE, UNCLIPPED
from torch import nn

from fields.carriers import Condition, Query
from fields.distiller import Distiller
from fields.field import Field
from fields.lora.adapter import Adapter
from fields.lora.peft_files import read_adapter
from fields.scene.exam import task_row
from fields.scene.family import SceneFamily
from fields.scene.grammar import ROUTE_CATEGORIES, draw_task
from fields.student import LoraStudent


@pytest.fixture(scope="session")
def family() -> SceneFamily:
    return SceneFamily()


@pytest.fixture(scope="session")
def new_base(tiny_models, family: SceneFamily) -> Callable[[], nn.Module]:
    """A fresh copy of the base at every call."""
    return lambda: family.load_transformer(tiny_models.base)


@pytest.fixture(scope="session")
def local_edit(tiny_models) -> Adapter:
    return read_adapter(tiny_models.local_edit)


@pytest.fixture(scope="session")
def global_edit(tiny_models) -> Adapter:
    return read_adapter(tiny_models.global_edit)


@pytest.fixture(scope="session")
def encoded(family: SceneFamily) -> Callable[[str, int], Condition]:
    """The conditions of the first tasks of a route."""

    def encode(route: str, count: int) -> Condition:
        categories = ROUTE_CATEGORIES[route]
        tasks = [draw_task(categories[n % len(categories)], np.random.default_rng(n)) for n in range(count)]
        return family.encode([task_row(f"{route}-{n}", task) for n, task in enumerate(tasks)])

    return encode


@pytest.fixture(scope="session")
def base_field(new_base, family: SceneFamily) -> Field:
    return Field.build("base", family, {"base": (new_base(), None)})


@pytest.fixture(scope="session")
def local_field(new_base, family: SceneFamily, local_edit: Adapter) -> Field:
    return Field.build("local_edit", family, {"local_edit": (new_base(), local_edit)})


@pytest.fixture(scope="session")
def states() -> torch.Tensor:
    """Four random states of the scene family."""
    return torch.randn(4, 3, 24, 24, generator=torch.Generator().manual_seed(7))


@pytest.fixture
def inputs(states, encoded):
    """What the network takes at those states: x_t, t, words, source."""
    condition = encoded("local_edit", 4)
    return states, torch.tensor([0.9, 0.6, 0.4, 0.2]), condition.tensors["words"], condition.tensors["source"]


@pytest.fixture
def new_student(family, new_base):
    def make(optimization=UNCLIPPED, shape=SHAPE, start=None, seed=0, objective=None, anchor_weight=0.0):
        return Distiller(family, new_base(), LoraStudent(shape), optimization, seed, start, objective, anchor_weight)

    return make


@pytest.fixture(scope="session")
def ask(encoded):
    """Queries of the local edits at random states: rows `rows` of a fixed batch of eight."""
    rng = torch.Generator().manual_seed(5)
    x_t, t = torch.randn(8, 3, 24, 24, generator=rng), torch.linspace(0.2, 1.0, 8)
    condition = encoded("local_edit", 8)

    def make(*rows, route="local_edit"):
        rows = torch.tensor(rows)
        return Query(
            sample_ids=tuple(rows.tolist()),
            routes=(route,) * len(rows),
            policy_version=0,
            checksum="",
            x_t=x_t[rows],
            t=t[rows],
            t_next=t[rows] - 0.1,
            condition=condition.select(rows),
        )

    return make
