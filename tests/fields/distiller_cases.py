"""What tests of the distiller share: sizes, answers of a field, and what to look at in a student."""

import math

from fields.carriers import Example, Target, checksum
from fields.lora.adapter import LoraShape
from fields.method.optimization import Optimization

SHAPE = LoraShape(8, 8.0, ("to_qkv", "ff_in", "patch_out"))
UNCLIPPED = Optimization(learning_rate=1e-2, clip=1e9)


def answered(query, field):
    return Example(query=query, target=field.answer(query))


def with_velocity(query, velocity):
    return Example(query=query, target=Target(sample_ids=query.sample_ids, expert="x", t=query.t, velocity=velocity))


def bits(student):
    """Everything that the next update depends on."""
    return checksum(student.parameters), checksum(student.ema), checksum(student.optimizer_tensors()), student.updates


def gradients(student):
    return {name: parameter.grad.double().numpy().copy() for name, parameter in student.parameters.items()}


def total_norm(arrays):
    return math.sqrt(sum((array**2).sum() for array in arrays.values()))
