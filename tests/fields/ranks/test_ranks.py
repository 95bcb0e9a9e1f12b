"""Updates by several processes: the student of one process, bit for bit, whatever their number and whoever does what."""

from dataclasses import replace

import psutil
import pytest
import torch
from distiller_cases import SHAPE, answered
from hypothesis import given
from hypothesis import strategies as st
from rank_process import NewStudent, Together, outlines, take_steps

from fields.carriers import checksum
from fields.method.objective import TransitionKl
from fields.method.optimization import Optimization
from fields.ranks.dealing import deal, owners
from fields.ranks.ordered import OrderedRanks
from fields.ranks.process_group import RankMissing
from fields.ranks.share import Share
from fields.student import FullStudent, LoraStudent
from fields.update import Update

CLIPPED = Optimization(learning_rate=1e-2, clip=0.1)


@given(st.lists(st.integers(1, 1000), max_size=30), st.integers(1, 8))
def test_dealt_loads_differ_by_no_more_than_the_largest_piece(costs, ranks):
    dealt = deal(costs, ranks)
    assert len(dealt) == len(costs)
    assert set(dealt) <= set(range(ranks))
    loads = [sum(cost for cost, rank in zip(costs, dealt, strict=True) if rank == own) for own in range(ranks)]
    assert max(loads) - min(loads) <= max(costs, default=0)


def test_owners_hold_the_same_number_of_values_as_far_as_whole_tensors_allow():
    assert owners({"a": 8, "b": 5, "c": 4, "d": 1}, 2) == {"a": 0, "b": 1, "c": 1, "d": 0}


def test_the_first_rank_listens_where_it_is_told_alone():
    """And not at every address of the machine, as torch would."""
    first = OrderedRanks(0, 2, torch.device("cpu"), 60.0)
    port = first.listen("127.0.0.1")
    sockets = psutil.Process().net_connections("tcp")
    assert [each.laddr.ip for each in sockets if each.status == "LISTEN" and each.laddr.port == port] == ["127.0.0.1"]


def test_the_memory_of_a_rank_is_its_own_matter():
    """torch's error for it is a RuntimeError, as is whatever a backend says of a rank that is gone."""
    for raised, seen in (
        (torch.OutOfMemoryError("CUDA out of memory"), torch.OutOfMemoryError),
        (RuntimeError("peer"), RankMissing),
    ):
        with pytest.raises(seen), OrderedRanks(0, 1, torch.device("cpu"), 1.0).meeting():
            raise raised


CASES = {
    "lora": (LoraStudent(SHAPE), CLIPPED),
    "micro-batches, recomputed": (LoraStudent(SHAPE), replace(CLIPPED, micro_batch=2, recompute=True)),
    "full": (FullStudent(), replace(CLIPPED, learning_rate=1e-3)),
}


QUICK = {("micro-batches, recomputed", 2), ("full", 3)}
SIZES = [pytest.param(case, size, marks=() if (case, size) in QUICK else pytest.mark.slow) for case in CASES for size in (2, 3)]


@pytest.mark.parametrize(("case", "size"), SIZES)
def test_ranks_learn_what_one_process_learns(case, size, steps, tiny_models, tmp_path):
    new_student = NewStudent(tiny_models.base, *CASES[case])
    alone = new_student()
    updates = [alone.update(examples) for examples in steps]
    ranks = take_steps(new_student, steps, tmp_path, Together(size))
    for step, (examples, expected) in enumerate(zip(steps, updates, strict=True)):
        learned = [one for rank in ranks for one in rank.learned[step][0]]
        assert {rank.learned[step][1] for rank in ranks} == {expected.gradient_norm}
        assert Update.of(Share.all(outlines(examples), size, "mean")[0], learned, expected.gradient_norm) == expected
    assert {rank.weights.checksum for rank in ranks} == {alone.weights(3).checksum}
    assert ranks[0].averaged.checksum == alone.averaged_weights(3).checksum
    assert checksum(ranks[0].moments) == checksum(alone.optimizer_tensors())
    values = [parameter.numel() for parameter in alone.parameters.values()]
    held = [rank.optimizer_values for rank in ranks]
    assert sum(held) == sum(values)
    assert max(held) - min(held) <= max(values), "each holds its part of the optimizer's state"


def test_a_sum_over_queries_is_divided_by_samples(ask, local_field, tiny_models, tmp_path):
    """Two queries of the same samples, which different ranks compute."""
    examples = [answered(ask(0, 1), local_field), answered(ask(0, 1), local_field)]
    new_student = NewStudent(tiny_models.base, LoraStudent(SHAPE), CLIPPED, TransitionKl())
    alone = new_student()
    expected = alone.update(examples)
    ranks = take_steps(new_student, [examples], tmp_path, Together(2))
    learned = [one for rank in ranks for one in rank.learned[0][0]]
    assert [len(rank.learned[0][0]) for rank in ranks] == [1, 1]
    share = Share.all(outlines(examples), 2, TransitionKl.over_queries)[0]
    assert (share.divisor, share.rows) == (2, 4)
    assert Update.of(share, learned, ranks[0].learned[0][1]) == expected
    assert ranks[1].weights.checksum == alone.weights(1).checksum


@pytest.mark.parametrize("case", ["micro-batches, recomputed", pytest.param("lora", marks=pytest.mark.slow)])
def test_ranks_that_share_the_base_learn_what_one_process_learns(case, steps, tiny_models, tmp_path):
    """Each holds half of it. Five groups for two ranks: the second has fewer micro-batches, and none in a step of one group."""
    steps = [*steps, steps[0][:1]]
    new_student = NewStudent(tiny_models.base, *CASES[case])
    alone = new_student()
    for examples in steps:
        alone.update(examples)
    ranks = take_steps(new_student, steps, tmp_path, Together(2, "frozen shared"))
    assert {rank.weights.checksum for rank in ranks} == {alone.weights(len(steps)).checksum}
    frozen = sum(parameter.numel() for parameter in alone.transformer.parameters() if not parameter.requires_grad)
    for rank in ranks:
        assert 0.45 * frozen < rank.frozen_values < 0.55 * frozen
