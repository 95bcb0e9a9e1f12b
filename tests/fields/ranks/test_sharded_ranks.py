"""A full student that ranks share: the one of one process up to the order of sums, wherever it is continued.

The tolerances are shares of how far the student learned, |W_ranks - W_one| / |W_one - W_start|. Only sums in float32 are
ordered otherwise, which is some 1e-7 of a gradient; Adam divides by the gradient's own size, so where it is close to zero its
noise becomes a step. Gradients that are averaged instead of added have half the norm, and a padding that counts is as large
as they.
"""

import pytest
import torch
from rank_process import NewStudent, Together, take_steps

from fields import checkpoint
from fields.method.optimization import Optimization
from fields.ranks.share import Share
from fields.student import FullStudent
from fields.update import Update

OPTIMIZATION = Optimization(learning_rate=1e-3, clip=0.1)
WEIGHTS, GRADIENTS = 1e-3, 1e-5


def apart(tensors, others, start):
    """How far two students are from each other, as a share of how far they came."""

    def flat(named):
        return torch.cat([named[name].detach().double().flatten() for name in sorted(start)])

    return float((flat(tensors) - flat(others)).norm() / (flat(others) - flat(start)).norm())


@pytest.fixture
def new_student(tiny_models):
    return NewStudent(tiny_models.base, FullStudent(), OPTIMIZATION)


@pytest.fixture
def unequal(steps):
    """Of two ranks one has fewer micro-batches, or none; in the last step one has a source image and the other hasn't."""
    return [steps[0], steps[1], steps[2], steps[0][:1], [steps[0][0], steps[2][0]]]


@pytest.fixture
def alone(new_student, unequal):
    """The start, and the student of one process with what each step did."""
    student, start = new_student(), new_student().weights(0).tensors
    return start, student, [student.update(examples) for examples in unequal]


def test_two_ranks_learn_what_one_learns_and_one_or_three_continue(alone, new_student, unequal, tmp_path):
    start, student, updates = alone
    ranks = take_steps(new_student, unequal, tmp_path, Together(2, "all shared", save_after=2))
    for step, (examples, expected) in enumerate(zip(unequal, updates, strict=True)):
        learned = [one for rank in ranks for one in rank.learned[step][0]]
        (norm,) = {rank.learned[step][1] for rank in ranks}
        assert norm == pytest.approx(expected.gradient_norm, rel=GRADIENTS)
        assert Update.of(Share.all(examples, 2, "mean")[0], learned, norm).loss == pytest.approx(expected.loss, rel=GRADIENTS)
    assert apart(ranks[0].weights.tensors, student.parameters, start) < WEIGHTS
    assert apart(ranks[0].averaged.tensors, student.ema, start) < WEIGHTS
    zeros = {name: torch.zeros_like(moment) for name, moment in student.optimizer_tensors().items()}
    assert apart(ranks[0].moments, student.optimizer_tensors(), zeros) < GRADIENTS
    values = sum(parameter.numel() for parameter in student.parameters.values())
    for rank in ranks:
        for held in rank.state_values.values():
            assert 0.45 * values < held < 0.55 * values
    saved = tmp_path / "checkpoints" / "step-000002"
    again = new_student()
    checkpoint.restore(saved, again)
    for examples in unequal[2:]:
        again.update(examples)
    assert apart(again.parameters, student.parameters, start) < WEIGHTS
    three = take_steps(new_student, unequal[2:], tmp_path, Together(3, "all shared", resume=saved))
    assert apart(three[0].weights.tensors, student.parameters, start) < WEIGHTS
    assert apart(three[0].averaged.tensors, student.ema, start) < WEIGHTS
