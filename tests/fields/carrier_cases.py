"""One carrier of each kind, for tests of any of them."""

import pickle

import torch

from fields.carriers import Condition, Example, Query, Target, Weights


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
        "routes": ("edit", "edit"),
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
