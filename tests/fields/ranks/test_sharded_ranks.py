"""A full student that ranks share: the one of one process up to the order of sums, wherever it is continued.

The tolerances are shares of how far the student learned, |W_ranks - W_one| / |W_one - W_start|. Only sums in float32 are
ordered otherwise, which is some 1e-7 of a gradient; Adam divides by the gradient's own size, so where it is close to zero its
noise becomes a step. Measured, they are 1.4e-6 of the weights and 2e-7 of a gradient's norm. Gradients that are averaged
instead of added are 0.5 off in their norm, and where padding counts the weights are 0.9 off.
"""

import shutil
from pathlib import Path

import pytest
import torch
from rank_process import NewStudent, Together, outlines, take_steps

from fields import checkpoint
from fields.carriers import checksum
from fields.method.optimization import Optimization
from fields.ranks.share import Share
from fields.student import FullStudent
from fields.update import Update

OPTIMIZATION = Optimization(learning_rate=1e-3, clip=0.1)
WEIGHTS, GRADIENTS = 1e-4, 1e-5


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


def check(ranks, steps, alone):
    """Ranks that took the steps learned what one process did."""
    start, student, updates = alone
    for step, (examples, expected) in enumerate(zip(steps, updates[-len(steps) :], strict=True)):
        learned = [one for rank in ranks for one in rank.learned[step][0]]
        (norm,) = {rank.learned[step][1] for rank in ranks}
        assert norm == pytest.approx(expected.gradient_norm, rel=GRADIENTS)
        share = Share.all(outlines(examples), len(ranks), "mean")[0]
        assert Update.of(share, learned, norm).loss == pytest.approx(expected.loss, rel=GRADIENTS)
    assert apart(ranks[0].weights.tensors, student.parameters, start) < WEIGHTS
    assert apart(ranks[0].averaged.tensors, student.ema, start) < WEIGHTS
    moments = student.optimizer_tensors()
    zeros = {name: torch.zeros_like(moment) for name, moment in moments.items()}
    assert apart(ranks[0].moments, moments, zeros) < WEIGHTS


def test_two_ranks_learn_what_one_learns_and_one_continues(alone, new_student, unequal, tmp_path):
    start, student, _ = alone
    ranks = take_steps(new_student, unequal, tmp_path, Together(2, "all shared", save_after=2))
    check(ranks, unequal, alone)
    values = sum(parameter.numel() for parameter in student.parameters.values())
    for rank in ranks:
        for held in rank.state_values.values():
            assert 0.45 * values < held < 0.55 * values
    again = new_student()
    saved = checkpoint.restore(tmp_path / "checkpoints" / "step-000002", again)
    assert (checksum(saved.student), again.updates) == (saved.published[2].checksum, 2)
    for examples in unequal[2:]:
        again.update(examples)
    assert apart(again.parameters, student.parameters, start) < WEIGHTS


@pytest.mark.slow
def test_any_number_continues_and_the_same_number_gives_the_same_bits(alone, new_student, unequal, tmp_path):
    two, again, three = (tmp_path / name for name in ("two", "again", "three"))
    for folder in (two, again, three):
        folder.mkdir()
    first = take_steps(new_student, unequal, two, Together(2, "all shared", save_after=2))
    saved = two / "checkpoints" / "step-000002"
    second = take_steps(new_student, unequal[2:], again, Together(2, "all shared", resume=saved))
    assert second[0].weights.checksum == first[0].weights.checksum
    assert second[0].averaged.checksum == first[0].averaged.checksum
    check(take_steps(new_student, unequal[2:], three, Together(3, "all shared", resume=saved)), unequal[2:], alone)


@pytest.mark.slow
def test_a_checkpoint_of_one_process_continues_on_ranks_that_share(alone, new_student, unequal, tmp_path):
    student = new_student()
    for examples in unequal[:2]:
        student.update(examples)
    saved = checkpoint.save(tmp_path, 2, student, {}, {})
    check(take_steps(new_student, unequal[2:], tmp_path, Together(2, "all shared", resume=saved)), unequal[2:], alone)


DAMAGE = {
    "changed": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x7f"),
    "missing": lambda path: path.unlink(),
}


@pytest.fixture(scope="module")
def shards(tiny_models, tmp_path_factory):
    """A checkpoint as ranks write it, by a group of one."""
    folder = tmp_path_factory.mktemp("shards")
    take_steps(NewStudent(tiny_models.base, FullStudent(), OPTIMIZATION), [], folder, Together(1, "all shared", save_after=0))
    return folder / "checkpoints" / "step-000000"


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
@pytest.mark.parametrize("name", ["shards/.metadata", "shards/__0_0.distcp", "published/version-000000.safetensors"])
def test_a_damaged_shard_is_named_and_its_checkpoint_passed_over(shards, tmp_path, name, damage):
    path = Path(shutil.copytree(shards, tmp_path / "step-000000"))
    assert checkpoint.newest(tmp_path) == path
    damage(path / name)
    with pytest.raises(ValueError, match=rf"no complete checkpoint: {name} is (damaged|missing)"):
        checkpoint.read(path)
    assert checkpoint.newest(tmp_path) is None


def test_shards_of_another_network_are_refused_by_name(shards, new_student):
    student = new_student()
    student.parameters["another"] = student.parameters["patch_out.bias"]
    with pytest.raises(ValueError, match=r"1 tensors don't fit .*student/another is absent, wanted"):
        checkpoint.restore(shards, student)


@pytest.mark.slow
def test_a_network_of_bfloat16_is_gathered_in_it_and_has_float32_shards(unequal, tiny_models, tmp_path):
    """Masters that differ in their last bits are rounded otherwise here and there, so the tolerance is that of bfloat16."""
    new_student = NewStudent(tiny_models.base, FullStudent(), OPTIMIZATION, half=True)
    student, start = new_student(), new_student().weights(0).tensors
    norms = [student.update(examples).gradient_norm for examples in unequal]
    ranks = take_steps(new_student, unequal, tmp_path, Together(2, "all shared"))
    assert {tensor.dtype for tensor in ranks[0].weights.tensors.values()} == {torch.float32}
    assert ranks[0].learned[0][1] == pytest.approx(norms[0], rel=GRADIENTS)
    assert apart(ranks[0].weights.tensors, student.parameters, start) < 1e-2
