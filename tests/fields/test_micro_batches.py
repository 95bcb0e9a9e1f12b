"""Micro-batches and recomputed activations: less memory for the same update."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from distiller_cases import SHAPE, UNCLIPPED, answered, bits, gradients, total_norm

from fields.carriers import Example


def test_micro_batches_have_the_gradient_of_the_whole_group(new_student, local_field, ask):
    """Three parts of five samples, the last one smaller: the mean is over samples, not over parts."""
    whole, parts = new_student(), new_student(replace(UNCLIPPED, micro_batch=2))
    one, many = (student.update([answered(ask(0, 1, 2, 3, 4), local_field)]) for student in (whole, parts))
    assert many.loss == pytest.approx(one.loss, rel=1e-5)
    assert many.route_samples == one.route_samples == {"local_edit": 5}
    assert many.route_target_norm == pytest.approx(one.route_target_norm, rel=1e-6)
    expected = gradients(whole)
    assert total_norm({name: g - expected[name] for name, g in gradients(parts).items()}) < 1e-4 * total_norm(expected)


def test_the_network_sees_no_more_samples_than_a_micro_batch(new_student, local_field, ask):
    student, seen = new_student(replace(UNCLIPPED, micro_batch=2)), []
    student.transformer.register_forward_pre_hook(lambda _module, arguments: seen.append(len(arguments[0])))
    student.update([answered(ask(0, 1, 2, 3, 4), local_field), answered(ask(5, 6), local_field)])
    assert seen == [2, 2, 1, 2]


def test_an_example_splits_into_all_of_its_parts(local_field, base_field, ask):
    query = ask(0, 1, 2)
    target = local_field.answer(query)
    example = Example(query=query, target=replace(target, unconditional=2 * target.velocity), anchor=base_field.answer(query))
    first, last = example.split(2)
    assert (first.query.sample_ids, last.query.sample_ids) == ((0, 1), (2,))
    for part, rows in ((first, slice(0, 2)), (last, slice(2, 3))):
        assert part.target.sample_ids == part.anchor.sample_ids == part.query.sample_ids
        pairs = [
            (part.query.x_t, query.x_t), (part.query.t, query.t), (part.query.t_next, query.t_next),
            (part.target.t, query.t), (part.target.velocity, example.target.velocity),
            (part.target.unconditional, example.target.unconditional), (part.anchor.velocity, example.anchor.velocity),
            *((part.query.condition.tensors[name], tensor) for name, tensor in query.condition.tensors.items()),
        ]  # fmt: skip
        assert all(torch.equal(own, whole[rows]) for own, whole in pairs)
    assert example.split(3) == example.split(None) == [example]


def test_recomputed_activations_give_the_same_bits(new_student, local_field, ask):
    kept, recomputed = new_student(), new_student(replace(UNCLIPPED, recompute=True))
    for step in range(3):
        updates = [student.update([answered(ask(step, step + 1, step + 2), local_field)]) for student in (kept, recomputed)]
        assert updates[0] == updates[1]
    assert bits(kept) == bits(recomputed)


def test_recomputed_activations_are_not_kept(new_student, ask):
    """A block's inner tensors are saved for the backward, or its input alone."""
    counts = []
    for recompute in (False, True):
        student, saved = new_student(replace(UNCLIPPED, recompute=recompute), shape=SHAPE), []
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor, saved=saved: saved.append(tensor) or tensor, lambda t: t):
            student.predict(ask(0, 1)).velocity.sum()
        counts.append(sum(tensor.numel() for tensor in saved))
    assert counts[1] < counts[0] / 3, np.array(counts)
