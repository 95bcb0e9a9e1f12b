"""What crosses a process: it survives the way, and says what is wrong with it."""

import pickle

import numpy as np
import pytest
import torch
from carrier_cases import assert_same, condition, example, query, random, send, target, tensors_of, weights
from jaxtyping import TypeCheckError
from jaxtyping import config as type_checks

from fields.carriers import Condition, Weights

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.uint8, torch.bool)
SHAPES = ((2, 3), (1,), (), (0,), (3, 0, 2))


CARRIERS = {"condition": condition, "query": query, "target": target, "example": example, "weights": weights}


@pytest.mark.parametrize("make", CARRIERS.values(), ids=CARRIERS.keys())
def test_round_trip_with_out_of_band_buffers(make):
    carrier = make()
    data, buffers = send(carrier)
    assert_same(pickle.loads(data, buffers=buffers), carrier)
    assert [len(buffer) for buffer in buffers] == [tensor.nbytes for tensor in tensors_of(carrier)]


@pytest.mark.parametrize("make", CARRIERS.values(), ids=CARRIERS.keys())
def test_round_trip_in_band(make):
    assert_same(pickle.loads(pickle.dumps(make())), make())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_type_and_shape_of_tensor_survives(dtype, shape):
    carrier = Weights.of(0, {"w": random(shape, dtype)})
    data, buffers = send(carrier)
    assert_same(pickle.loads(data, buffers=buffers), carrier)


def test_views_and_trained_tensors_survive():
    view = random((6, 4)).t()[1:, ::2].requires_grad_()
    carrier = Condition(tensors={"w": view}, unconditional={})
    data, buffers = send(carrier)
    received = pickle.loads(data, buffers=buffers)
    assert torch.equal(received.tensors["w"], view)
    assert not received.tensors["w"].requires_grad


@pytest.mark.parametrize("make", CARRIERS.values(), ids=CARRIERS.keys())
def test_the_received_tensors_own_their_memory(make):
    data, buffers = send(make())
    received = pickle.loads(data, buffers=buffers)
    for buffer in buffers:
        buffer[:] = b"\xff" * len(buffer)
    assert_same(received, make())


@pytest.mark.parametrize("make", CARRIERS.values(), ids=CARRIERS.keys())
def test_tensors_from_read_only_buffers_are_writeable(make, recwarn):
    data, buffers = send(make())
    received = pickle.loads(data, buffers=[bytes(buffer) for buffer in buffers])
    for tensor, original in zip(tensors_of(received), tensors_of(make()), strict=True):
        tensor.add_(1)
        assert torch.equal(tensor, original + 1)
    assert not recwarn.list  # torch warns of a tensor over memory that it must not write


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_state_that_is_not_finite_names_the_version_sample_and_t(value):
    x_t = random((2, 3, 4, 4))
    x_t[1, 2, 3, 0] = value
    with pytest.raises(ValueError, match=r"policy version 6 .* not finite: sample 41 at t = 1\.0$"):
        query(x_t=x_t)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_velocity_that_is_not_finite_names_the_expert_samples_and_t(value):
    velocity = random((2, 3, 4, 4))
    velocity[:, 0, 0, 0] = value
    with pytest.raises(ValueError, match=r"'local' .* not finite: sample 40 at t = 0\.25, sample 41 at t = 1\.0$"):
        target(velocity=velocity)


def test_a_state_damaged_on_its_way_is_refused_on_receipt():
    data, buffers = send(query())
    biggest = max(buffers, key=len)
    biggest[:4] = np.float32(np.nan).tobytes()
    with pytest.raises(ValueError, match="sample 40"):
        pickle.loads(data, buffers=buffers)


@pytest.mark.parametrize("t", [-1e-6, 1 + 1e-6, float("nan")])
def test_times_outside_0_and_1_are_refused(t):
    with pytest.raises(ValueError, match=r"leave \[0, 1\]"):
        query(t=torch.tensor([0.5, t]), t_next=torch.tensor([0.0, 0.0]))


def test_a_step_may_go_from_noise_to_clean():
    assert query(t=torch.tensor([1.0, 1.0]), t_next=torch.tensor([0.0, 0.0])).t_next.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("t_next", [0.5, 0.75, -0.1, float("nan")])
def test_steps_go_towards_0(t_next):
    with pytest.raises(ValueError, match="steps don't go towards 0"):
        query(t=torch.tensor([0.5, 0.5]), t_next=torch.tensor([0.25, t_next]))


def test_states_are_float32():
    with pytest.raises(ValueError, match="bfloat16; they must be float32"):
        query(x_t=random((2, 3, 4, 4), torch.bfloat16))


WRONG_LENGTHS = {
    "ids": (query, {"sample_ids": (40,)}, "query of 1 samples has 2 routes, 2 states, 2 times and 2 conditions"),
    "states": (query, {"x_t": random((3, 3, 4, 4))}, "query of 2 samples has 2 routes, 3 states, 2 times and 2 conditions"),
    "times": (
        query,
        {"t": torch.tensor([0.5]), "t_next": torch.tensor([0.25])},
        "query of 2 samples has 2 routes, 2 states, 1 times and 2 conditions",
    ),
    "conditions": (query, {"condition": condition(1)}, "query of 2 samples has 2 routes, 2 states, 2 times and 1 conditions"),
    "routes": (query, {"routes": ("edit",)}, "query of 2 samples has 1 routes, 2 states, 2 times and 2 conditions"),
    "target ids": (target, {"sample_ids": (1, 2, 3)}, "target of 3 samples has 2 velocities"),
    "target velocities": (target, {"velocity": random((1, 3))}, "target of 2 samples has 1 velocities"),
    "target times": (target, {"t": torch.tensor([0.5])}, "target of 2 samples has 2 velocities"),
}


@pytest.fixture
def _without_type_checks():
    """As in a run: the carriers must see for themselves what jaxtyping sees in tests."""
    type_checks.update("jaxtyping_disable", True)
    yield
    type_checks.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("_without_type_checks")
@pytest.mark.parametrize(("make", "changes", "message"), WRONG_LENGTHS.values(), ids=WRONG_LENGTHS.keys())
def test_lengths_that_disagree_are_refused(make, changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_annotations_of_the_carriers_are_checked_in_tests():
    with pytest.raises(TypeCheckError):
        query(t=torch.tensor([0.5]), t_next=torch.tensor([0.25]))
