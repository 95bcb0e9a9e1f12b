"""Published weights: a copy of their moment, with a checksum that finds one flipped bit."""

import hashlib
import pickle

import numpy as np
import pytest
import torch
from carrier_cases import assert_same, random, send, weights

from fields.carriers import Weights, checksum


def test_weights_are_a_copy_of_their_moment():
    parameter = torch.nn.Parameter(torch.ones(3))
    taken = Weights.of(5, {"w": parameter})
    with torch.no_grad():
        parameter.add_(1)
    assert taken.tensors["w"].tolist() == [1, 1, 1]
    assert taken.checksum == checksum({"w": torch.ones(3)}) != checksum({"w": parameter})


def test_weights_with_one_flipped_bit_are_refused():
    hashed = weights()
    assert len(hashed.checksum) == 64, "who sends them knows their checksum"
    data, buffers = send(hashed)
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
