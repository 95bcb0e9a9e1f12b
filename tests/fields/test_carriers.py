import hashlib
import pickle

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from jaxtyping import config as type_checks

from fields.carriers import DISTILLED_GUIDANCE, Condition, Example, Query, Target, Variant, Weights, checksum

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.uint8, torch.bool)
SHAPES = ((2, 3), (1,), (), (0,), (3, 0, 2))


def random(shape, dtype=torch.float32):
    return (torch.randn(shape, generator=torch.Generator().manual_seed(3)) * 9).to(dtype)


def condition(count=2):
    return Condition(
        tensors={"words": torch.arange(count * 9).view(count, 9), "source": random((count, 3, 4, 4), torch.bfloat16)},
        unconditional={"words": torch.zeros(count, 9, dtype=torch.int64)},
        negative={"words": torch.arange(count * 9).view(count, 9) + 100},
        source_names=("source",),
        clean=random((count, 3, 4, 4)),
    )


def query(**changes):
    values = {
        "sample_ids": (40, 41),
        "route": "edit",
        "policy_version": 6,
        "checksum": "abc",
        "x_t": random((2, 3, 4, 4)),
        "t": torch.tensor([0.25, 1.0]),
        "t_next": torch.tensor([0.0, 0.75]),
        "condition": condition(),
    }
    return Query(**values | changes)


def target(**changes):
    values = {"sample_ids": (40, 41), "expert": "local", "t": torch.tensor([0.25, 1.0]), "velocity": random((2, 3, 4, 4))}
    return Target(**values | changes)


def weights():
    return Weights.of(3, {"b": random((4, 3), torch.bfloat16), "a": random((2,)), "n": torch.tensor(7)})


def example():
    both = target(unconditional=random((2, 3, 4, 4)) + 1)
    return Example(query=query(both_branches=True), target=both, anchor=target(expert="anchor"))


CARRIERS = {"condition": condition, "query": query, "target": target, "example": example, "weights": weights}


def assert_same(one, other):
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_same(one[key], other[key])
    elif hasattr(one, "__dataclass_fields__"):
        for name in one.__dataclass_fields__:
            assert_same(getattr(one, name), getattr(other, name))
    else:
        assert one == other


def tensors_of(value):
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        return [tensor for item in value.values() for tensor in tensors_of(item)]
    if hasattr(value, "__dataclass_fields__"):
        return [tensor for name in value.__dataclass_fields__ for tensor in tensors_of(getattr(value, name))]
    return []


def send(carrier):
    """The pickle and its out-of-band buffers, as memory that the receiver doesn't own."""
    buffers = []
    data = pickle.dumps(carrier, protocol=5, buffer_callback=buffers.append)
    return data, [bytearray(buffer.raw()) for buffer in buffers]


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
    "ids": (query, {"sample_ids": (40,)}, "query of 1 samples has 2 states, 2 times and 2 conditions"),
    "states": (query, {"x_t": random((3, 3, 4, 4))}, "query of 2 samples has 3 states, 2 times and 2 conditions"),
    "times": (
        query,
        {"t": torch.tensor([0.5]), "t_next": torch.tensor([0.25])},
        "query of 2 samples has 2 states, 1 times and 2 conditions",
    ),
    "conditions": (query, {"condition": condition(1)}, "query of 2 samples has 2 states, 2 times and 1 conditions"),
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


def test_condition_tensors_have_one_batch():
    with pytest.raises(ValueError, match=r"sizes \[2, 3\]"):
        Condition(tensors={"words": torch.zeros(2, 9)}, unconditional={"words": torch.zeros(3, 9)})


def test_select_takes_rows_by_number_and_by_mask():
    whole = condition(4)
    for rows in (torch.tensor([3, 1]), torch.tensor([False, True, False, True])):
        part = whole.select(rows)
        assert len(part) == 2
        for name, tensor in whole.tensors.items():
            assert torch.equal(part.tensors[name], tensor[rows])
        assert part.unconditional["words"].shape == (2, 9)


def test_texts_of_unequal_length_are_padded_at_their_ends():
    short, long = (
        Condition(
            tensors={"text": torch.full((1, n, 3), float(n)), "mask": torch.ones(1, n, dtype=torch.bool)}, unconditional={}
        )
        for n in (2, 5)
    )
    joined = Condition.concatenate([short, long])
    assert joined.tensors["text"][:, :, 0].tolist() == [[2.0, 2.0, 0.0, 0.0, 0.0], [5.0] * 5]
    assert joined.tensors["mask"].tolist() == [[True, True, False, False, False], [True] * 5]


def test_a_branch_that_is_told_another_scale():
    condition = Condition(tensors={DISTILLED_GUIDANCE: torch.tensor([3.5, 3.5])}, unconditional={})
    assert condition.variant(Variant(distilled_scale=7.0)).tensors[DISTILLED_GUIDANCE].tolist() == [7.0, 7.0]
    assert condition.variant(Variant()).tensors[DISTILLED_GUIDANCE].tolist() == [3.5, 3.5]


def test_concatenate_undoes_select():
    whole = condition(5)
    parts = [whole.select(torch.tensor(rows)) for rows in ([0, 1], [2], [3, 4])]
    assert_same(Condition.concatenate(parts), whole)


@pytest.mark.parametrize("prompt", ["given", "empty", "negative"])
def test_a_variant_changes_the_words_and_nothing_else(prompt):
    whole = condition()
    words = {"given": whole.tensors, "empty": whole.unconditional, "negative": whole.negative}[prompt]["words"]
    seen = whole.variant(Variant(prompt=prompt))
    assert torch.equal(seen.tensors["words"], words)
    assert torch.equal(seen.tensors["source"], whole.tensors["source"])
    assert seen.clean is None, "no field sees the target image"


@pytest.mark.parametrize("prompt", ["given", "empty", "negative"])
def test_a_variant_without_source_has_the_words_alone(prompt):
    seen = condition().variant(Variant(prompt=prompt, source=False))
    assert_same(seen.tensors, {"words": condition().variant(Variant(prompt=prompt)).tensors["words"]})


@pytest.mark.parametrize(
    ("variant", "message"), [(Variant(prompt="negative"), "no negative_prompt"), (Variant(source=False), "no source_image")]
)
def test_a_variant_that_the_rows_lack_is_refused(variant, message):
    bare = Condition(tensors={"words": torch.zeros(2, 9)}, unconditional={"words": torch.zeros(2, 9)})
    with pytest.raises(ValueError, match=message):
        bare.variant(variant)


def test_weights_are_a_copy_of_their_moment():
    parameter = torch.nn.Parameter(torch.ones(3))
    taken = Weights.of(5, {"w": parameter})
    with torch.no_grad():
        parameter.add_(1)
    assert taken.tensors["w"].tolist() == [1, 1, 1]
    assert taken.checksum == checksum({"w": torch.ones(3)}) != checksum({"w": parameter})


def test_weights_with_one_flipped_bit_are_refused():
    data, buffers = send(weights())
    for buffer in buffers:
        buffer[-1] ^= 1
        with pytest.raises(ValueError, match="policy version 3 are damaged"):
            pickle.loads(data, buffers=buffers)
        buffer[-1] ^= 1
    assert_same(pickle.loads(data, buffers=buffers), weights())


def test_checksum_does_not_depend_on_the_order_of_names_or_on_memory_layout():
    a, b = random((4, 6)), random((5,))
    assert checksum({"a": a, "b": b}) == checksum({"b": b, "a": a})
    assert checksum({"a": a}) == checksum({"a": a.t().contiguous().t()})


def test_checksum_depends_on_name_type_shape_and_bits():
    zeros = torch.zeros(4, 2)
    variants = [
        {"a": zeros},
        {"b": zeros},
        {"a": torch.zeros(2, 4)},
        {"a": torch.zeros(4, 2, dtype=torch.int32)},
        {"a": zeros, "c": torch.zeros(0)},
        {"a": -zeros},
        {"a": zeros[:2], "b": zeros[2:]},
        {"b": zeros[:2], "a": zeros[2:], "c": zeros[:0]},
    ]
    assert len({checksum(tensors) for tensors in variants}) == len(variants)


def test_checksum_is_the_documented_sha_256():
    """Published in reports and compared across machines, so its recipe must not drift."""
    expected = hashlib.sha256(b"a torch.float32 (2,)\n" + np.array([1.0, -2.0], "<f4").tobytes() + b"b torch.int64 ()\n")
    expected.update(np.array(7, "<i8").tobytes())
    assert checksum({"b": torch.tensor(7), "a": torch.tensor([1.0, -2.0])}) == expected.hexdigest()
