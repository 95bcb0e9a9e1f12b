"""Every kind of replica computes as it was told from the first tensor on, and tells its device."""

import asyncio
from collections.abc import Callable, Iterator
from typing import NoReturn

import pytest
import torch

from fields.numerics import Numerics
from fields.scene.family import SceneFamily
from services.encoder import EncoderService
from services.expert import ExpertService
from services.shared_experts import SharedExpertsService
from services.student import StudentService

KINDS: dict[str, Callable[..., object]] = {
    "encoder": lambda build, numerics: EncoderService(build, 1 << 20, numerics, "run", {}),
    "expert": lambda build, numerics: ExpertService(build, numerics, {}),
    "shared experts": lambda build, numerics: SharedExpertsService(build, numerics, {}),
    "student": lambda build, numerics: StudentService(build, numerics),
}


class LoadingBeginsError(Exception):
    """Carries the process's settings to the test."""


def begins_to_load(*_: object) -> NoReturn:
    raise LoadingBeginsError(torch.get_num_threads(), torch.are_deterministic_algorithms_enabled())


@pytest.fixture
def _settled_again() -> Iterator[None]:
    yield
    Numerics().settle()


@pytest.mark.usefixtures("_settled_again")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("threads", "deterministic"), [(1, True), (2, False)])
def test_a_replica_settles_its_numerics_before_it_loads(kind, threads, deterministic):
    Numerics(threads=3, deterministic=not deterministic).settle()
    with pytest.raises(LoadingBeginsError) as begun:
        KINDS[kind](begins_to_load, Numerics(threads=threads, deterministic=deterministic))
    assert begun.value.args == (threads, deterministic)


def test_a_replica_tells_its_identity_with_its_device():
    service = EncoderService(SceneFamily, 1 << 20, Numerics(), "run", {"model": "m"})
    assert asyncio.run(service.identity()) == {"model": "m", "device": "cpu"}
