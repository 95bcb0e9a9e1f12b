"""A full student: what is trained, in which precision, how it is published, saved and continued."""

import pytest
import torch
from rollout_cases import rollouts
from torch import nn

from fields import checkpoint
from fields.carriers import Example, Query, checksum
from fields.distiller import Distiller
from fields.method.optimization import Optimization
from fields.method.solver import Euler
from fields.method.time_grid import time_grid
from fields.policy import Policy
from fields.scene.family import SceneFamily
from fields.student import FullStudent
from fields.versions import Merged

GRID = time_grid(4)


class AutocastFamily(SceneFamily):
    """The scene's network as a bfloat16 one computes."""

    def velocity(self, transformer, x_t, t, condition):
        with torch.autocast("cpu", torch.bfloat16, enabled=transformer.patch_in.weight.dtype == torch.bfloat16):
            return super().velocity(transformer, x_t, t, condition)


@pytest.fixture
def new_student(new_base):
    def make(dtype=torch.float32, seed=0):
        return Distiller(AutocastFamily(), new_base().to(dtype), FullStudent(), Optimization(learning_rate=1e-3), seed)

    return make


@pytest.fixture
def query(encoded, states):
    t, condition = torch.tensor([1.0, 0.7, 0.5, 0.2]), encoded("local_edit", 4)
    return Query(
        sample_ids=(0, 1, 2, 3),
        routes=("r",) * 4,
        policy_version=0,
        checksum="",
        x_t=states,
        t=t,
        t_next=t - 0.1,
        condition=condition,
    )


def bits(student):
    return checksum(student.parameters), checksum(student.ema), checksum(student.optimizer_tensors()), student.updates


def test_a_fresh_student_is_the_base_and_does_not_move_towards_it(new_student, base_field, query):
    student = new_student()
    before = checksum(student.parameters)
    assert student.update([Example(query=query, target=base_field.answer(query))]).loss == 0.0
    assert checksum(student.parameters) == before


def test_every_parameter_is_trained(new_student, local_field, query):
    student = new_student()
    before = {name: tensor.clone() for name, tensor in student.weights(0).tensors.items()}
    assert before.keys() == dict(student.transformer.named_parameters()).keys()
    student.update([Example(query=query, target=local_field.answer(query))])
    moved = {name for name, tensor in student.parameters.items() if not torch.equal(tensor, before[name])}
    assert moved == before.keys()


def test_the_masters_of_a_bfloat16_network_are_float32(new_student):
    student = new_student(torch.bfloat16)
    assert {tensor.dtype for tensor in student.parameters.values()} == {torch.float32}
    assert {parameter.dtype for parameter in student.transformer.parameters()} == {torch.bfloat16}


class Scale(nn.Module):
    """v = weight x: a network of one number."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1.0, dtype=torch.bfloat16))

    def forward(self, x):
        return self.weight * x.bfloat16()


def test_updates_below_the_resolution_of_bfloat16_add_up():
    """Next to 1, bfloat16 has steps of 1/128 above and 1/256 below: eight updates of 0.0005 each are lost one by one."""
    module, student = Scale(), FullStudent()
    masters = student.attach(module, seed=0)
    optimizer = torch.optim.SGD(list(masters.values()), lr=0.0005)
    for _ in range(8):
        optimizer.zero_grad()
        module(torch.tensor(1.0)).backward()
        optimizer.step()
        student.refresh(module, masters)
    assert masters["weight"].item() == pytest.approx(1 - 8 * 0.0005, rel=1e-6)
    assert module.weight.item() == 1 - 1 / 256, "the network computes with the rounded master"


def test_gradients_of_groups_are_summed_in_float32():
    """In bfloat16 256 + 1 is 256."""
    module, student = Scale(), FullStudent()
    masters = student.attach(module, seed=0)
    for value in (256.0, 1.0, 1.0):
        module(torch.tensor(value)).backward()
    assert masters["weight"].grad is not None
    assert masters["weight"].grad.item() == 258.0
    assert module.weight.grad is None, "nothing is kept twice"


def test_a_parameter_that_no_sample_uses_takes_the_step_too(new_student, base_field, local_field, query):
    """Or its moments would count other steps after resuming than before."""
    student = new_student()
    student.transformer.register_parameter("idle", nn.Parameter(torch.ones(2)))
    student = Distiller(student.family, student.transformer, FullStudent(), Optimization(), 0)
    student.update([Example(query=query, target=local_field.answer(query))])
    assert student.optimizer.state[student.parameters["idle"]]["step"] == 1
    assert torch.equal(student.parameters["idle"].detach(), torch.ones(2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_published_version_rolls_out_as_the_learner_computes(family, new_base, new_student, local_field, query, dtype):
    student = new_student(dtype)
    student.update([Example(query=query, target=local_field.answer(query))])
    policy = Policy(family, Merged(new_base().to(dtype), FullStudent()), rollouts(0, GRID, Euler()))
    base = checksum(policy.transformer.state_dict())
    policy.load(student.weights(1))
    assert checksum(policy.transformer.state_dict()) == checksum(student.transformer.state_dict()) != base
    policy.load(None)
    assert checksum(policy.transformer.state_dict()) == base


def test_a_checkpoint_is_a_model_of_its_family_and_continues_the_run(family, new_student, local_field, query, tmp_path):
    student, resumed = new_student(), new_student(seed=9)
    for step in (1, 2):
        student.update([Example(query=query, target=local_field.answer(query))])
        if step == 1:
            folder = checkpoint.save(tmp_path, 1, student, {1: student.weights(1)}, {})
            expected = {"": checksum(student.transformer.state_dict()), "ema": checksum(student.ema)}
    assert checksum(family.load_transformer(folder).state_dict()) == expected[""]
    assert checksum(dict(family.load_transformer(folder / "ema").named_parameters())) == expected["ema"]
    saved = checkpoint.read(folder)
    resumed.restore(saved.student, saved.ema, saved.optimizer, saved.step)
    resumed.update([Example(query=query, target=local_field.answer(query))])
    assert bits(resumed) == bits(student)


def test_a_resumed_bfloat16_network_computes_with_the_restored_masters(new_student, local_field, query):
    student, resumed = new_student(torch.bfloat16), new_student(torch.bfloat16)
    student.update([Example(query=query, target=local_field.answer(query))])
    resumed.restore(student.weights(1).tensors, student.averaged_weights(1).tensors, student.optimizer_tensors(), 1)
    assert checksum(resumed.transformer.state_dict()) == checksum(student.transformer.state_dict())
