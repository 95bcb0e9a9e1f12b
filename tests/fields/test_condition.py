"""What encoders return for a batch of rows: its parts, its rows, and its variants."""

from dataclasses import replace

import pytest
import torch
from carrier_cases import assert_same, condition

from fields.carriers import DISTILLED_GUIDANCE, Condition, Variant


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


def test_what_differs_in_its_tensors_makes_no_batch():
    """Whichever comes first: a source image would otherwise be lost, unseen."""
    text = Condition(tensors={"text": torch.ones(1, 3)}, unconditional={})
    edit = Condition(tensors={"text": torch.ones(1, 3), "source": torch.ones(1, 3)}, unconditional={})
    for order in ([text, edit], [edit, text]):
        with pytest.raises(ValueError, match=r"make no batch: \('source', 'text'\) and \('text',\)"):
            Condition.concatenate(order)


def test_joined_conditions_are_what_the_student_reads():
    first, second = condition(2), replace(condition(3), clean=None, negative={}, unconditional={})
    joined = Condition.joined([first, second])
    assert torch.equal(joined.tensors["words"], torch.cat([first.tensors["words"], second.tensors["words"]]))
    assert (joined.unconditional, joined.negative, joined.clean) == ({}, {}, None)
    assert joined.source_names == first.source_names
    with_empty = Condition.joined([first, first], empty_prompt=True)
    assert torch.equal(with_empty.unconditional["words"], torch.cat([first.unconditional["words"]] * 2))
    assert Condition.joined([first]) is first


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
    ("variant", "message"),
    [
        (Variant(prompt="negative"), "no negative_prompt"),
        (Variant(source=False), "no source_image"),
        (Variant(prompt="empty"), "encoded without the empty prompt"),
    ],
)
def test_a_variant_that_the_rows_lack_is_refused(variant, message):
    bare = Condition(tensors={"words": torch.zeros(2, 9)}, unconditional={})
    with pytest.raises(ValueError, match=message):
        bare.variant(variant)
