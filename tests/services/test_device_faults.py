"""Replicas of real Serve applications whose device fails while they compute: in the third of a rollout's four forwards."""

import asyncio
import sys
from functools import partial

import metrics_port
import pytest
import torch
from faulty_family import BROKEN, FULL, LOST_CARD, FaultyFamily, processes
from ray import cloudpickle, serve
from ray.exceptions import RayActorError
from waiting import wait_for

from fields.carriers import Weights
from fields.field import Field
from fields.lora.peft_files import read_adapter
from fields.method.plan import Stream, generator, noise
from fields.method.rollout import generate
from fields.method.solver import Euler
from fields.method.states import RolloutSettings
from fields.method.time_grid import time_grid
from fields.numerics import Numerics
from fields.operators import Network
from fields.policy import Policy
from fields.scene.exam import task_row
from fields.scene.family import SceneFamily
from fields.scene.grammar import draw_task
from fields.shared_field import Member, SharedField
from fields.student import LoraStudent
from fields.versions import Merged
from services.applications import delete, deploy
from services.client import CallLimits
from services.expert import expert_application
from services.expert_client import ExpertClient
from services.resources import Resources
from services.shared_experts import shared_experts_application
from services.student import student_application
from services.student_client import StudentClient

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # replicas cannot import a test module

APPLICATION = "faulty"
RESOURCES = Resources(num_cpus=0.1)
GRID = time_grid(4)
CONDITION = SceneFamily().encode([task_row("u", draw_task("single", generator(0, Stream.ROW, 0)))])
AT = noise(0, (0,), (3, 24, 24)), GRID, CONDITION


def build_field(family, base, ranks=None):
    return Field.build("expert", family, {"expert": (family.load_transformer(base), None)})


def build_shared(family, base, ranks=None):
    members = {"expert": Member(Network("0"), ("expert",))}
    return SharedField(family, family.load_transformer(base), {"expert": None}, members, torch.device("cpu"))


def build_student(family, base, adapter):
    lora = read_adapter(adapter)
    settings = RolloutSettings(seed=0, grid=GRID, solver=Euler())
    policy = Policy(family, Merged(family.load_transformer(base), LoraStudent(lora.shape)), lambda size: settings)
    policy.load(Weights.of(0, lora.tensors))
    return policy


@pytest.fixture
def serving(cluster, tiny_models, tmp_path):
    """Deploys a service whose device fails with an error at some calls, in a file that is returned."""

    def deployed(service: str, error: RuntimeError, *at: int):
        calls = tmp_path / "calls"
        family, base = FaultyFamily(calls, error, at), tiny_models.base
        application = {
            "expert": lambda: expert_application(partial(build_field, family, base), Numerics(), {}, RESOURCES),
            "shared": lambda: shared_experts_application(partial(build_shared, family, base), Numerics(), {}, RESOURCES),
            "student": lambda: student_application(
                partial(build_student, family, base, tiny_models.local_edit), Numerics(), RESOURCES
            ),
        }[service]()
        deploy({APPLICATION: application})
        return calls

    yield deployed
    delete([APPLICATION])
    wait_for(lambda: APPLICATION not in serve.status().applications, "the application's end")


def asked(service: str):
    async def ask():
        if service == "student":
            return await StudentClient(APPLICATION, service, "test", CallLimits()).generate(*AT)
        return await ExpertClient(APPLICATION, service, "test", CallLimits(), shared=False).generate("expert", *AT)

    return asyncio.run(ask())


def undisturbed(service: str, tiny_models):
    family = SceneFamily()
    if service == "student":
        return build_student(family, tiny_models.base, tiny_models.local_edit).generate(*AT)
    return generate(build_field(family, tiny_models.base).velocity, *AT, torch.device("cpu"))


@pytest.mark.slow  # that a replica ends, and is missed, is among the quick tests
@pytest.mark.parametrize(("service", "error"), [("expert", BROKEN), ("shared", LOST_CARD), ("student", BROKEN)])
def test_a_broken_device_ends_its_replica_and_the_call_is_repeated_on_another(serving, tiny_models, service, error):
    calls = serving(service, error, 2)
    assert torch.equal(asked(service), undisturbed(service, tiny_models))
    first, last = processes(calls)[0], processes(calls)[-1]
    assert processes(calls) == [first] * 3 + [last] * 4
    assert first != last


@pytest.mark.slow  # a rollout that has no memory once is among the quick tests
def test_out_of_memory_once_is_computed_again_in_the_same_process(serving, tiny_models):
    calls = serving("expert", FULL, 2)
    assert torch.equal(asked("expert"), undisturbed("expert", tiny_models))
    assert processes(calls) == processes(calls)[:1] * 7
    wait_for(lambda: counted("out_of_memory") == 1, "the fault on the metrics port")


@pytest.mark.slow
def test_out_of_memory_twice_ends_the_replica(serving, tiny_models):
    calls = serving("expert", FULL, 2, 5)
    assert torch.equal(asked("expert"), undisturbed("expert", tiny_models))
    first, last = processes(calls)[0], processes(calls)[-1]
    assert processes(calls) == [first] * 6 + [last] * 4
    assert first != last


def test_a_replica_that_ends_is_unhealthy_and_counts_its_fault(serving):
    """It counts before it ends: the metrics leave a process from time to time only."""
    serving("expert", BROKEN, 0)
    handle = serve.get_app_handle(APPLICATION)
    handle.check_health.remote().result()
    before = counted("broken")
    lost = handle.generate.remote("expert", *AT)

    def unhealthy() -> bool:
        try:
            handle.check_health.remote().result()
        except RuntimeError as error:
            return "an illegal memory access" in str(error)
        return False

    wait_for(unhealthy, "a health check that fails", every_s=0.02)
    with pytest.raises(RayActorError):
        lost.result()
    assert counted("broken") == before + 1


def counted(kind: str) -> float:
    """Faults of this kind on the metrics port."""
    labels = f'kind="{kind}"', f'process="{APPLICATION}'
    return sum(metrics_port.values(metrics_port.shown(), "ray_field_device_faults_total", *labels))
