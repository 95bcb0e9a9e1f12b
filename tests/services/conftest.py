"""The endpoint in this process: the services themselves over the tiny models, called without Ray between them."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from fastapi import FastAPI
from torch import Tensor

from fields.carriers import Weights
from fields.lora.peft_files import read_adapter
from fields.method.plan import Stream, generator
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
from services.encoder import EncoderService
from services.encoders import Encoders
from services.endpoint import EndpointSettings, build_api
from services.student import StudentService
from services.studio import Generate, Studio

GRID: Tensor = time_grid(4)
SETTINGS = EndpointSettings(
    run="tiny",
    step=7,
    models={"student": (), "expert": ()},
    edits=True,
    size="24x24",
    frames=1,
    examples=[task_row(name, draw_task(name, generator(0, Stream.ROW, 0))) for name in ("single", "remove")],
    queue=8,
    timeout_s=60.0,
    most_bytes=100_000,
    digest=None,
)


@pytest.fixture(scope="session")
def policies(tiny_models) -> Mapping[str, Policy]:
    """Two versions of a student: the adapters of the tiny models, merged."""
    family = SceneFamily()
    policies = {}
    for name, adapter in (("student", tiny_models.local_edit), ("expert", tiny_models.global_edit)):
        lora, transformer = read_adapter(adapter), family.load_transformer(tiny_models.base)
        policies[name] = Policy(
            family,
            Merged(transformer, LoraStudent(lora.shape)),
            lambda size: RolloutSettings(seed=0, grid=GRID, solver=Euler()),
        )
        policies[name].load(Weights.of(0, lora.tensors))
    return policies


MakeApi = Callable[..., FastAPI]


@pytest.fixture
def make_api(policies: Mapping[str, Policy]) -> MakeApi:
    """The HTTP application; other settings, another family, or another generator for a model."""

    def make(
        others: Mapping[str, Generate] | None = None, /, family: type[SceneFamily] = SceneFamily, **settings: Any
    ) -> FastAPI:
        models = {name: StudentService(lambda p=policy: p, numerics=Numerics()).generate for name, policy in policies.items()}
        encoder = EncoderService(family, cache_bytes=1 << 20, numerics=Numerics(), run="test", identity={})
        studio = Studio(Encoders({None: encoder}), {**models, **(others or {})}, {}, family(), lambda size: GRID)
        return build_api(studio, replace(SETTINGS, **settings))

    return make
