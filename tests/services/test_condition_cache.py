"""What the cache keeps, drops and tells apart."""

import torch

from fields.carriers import Condition
from fields.data.rows import Row
from services.condition_cache import ConditionCache, batch_key, content_key


def condition(numbers: int) -> Condition:
    """Of 4 bytes a number, once with the prompt and once without."""
    return Condition(tensors={"words": torch.zeros(1, numbers)}, unconditional={"words": torch.zeros(1, numbers)})


def test_bytes_are_bounded_and_the_least_recently_used_goes():
    cache = ConditionCache(100)
    assert [cache.keep(key, condition(5)) for key in (b"a", b"b")] == [0, 0]
    assert cache.currsize == 80
    assert cache.get(b"a") is not None
    assert cache.keep(b"c", condition(5)) == 1
    assert [cache.get(key) is not None for key in (b"a", b"b", b"c")] == [True, False, True]
    assert cache.keep(b"d", condition(12)) == 2, "a large one takes the room of several"
    assert cache.currsize == 96


def test_what_is_larger_than_the_cache_is_not_kept_and_drops_nothing():
    cache = ConditionCache(50)
    cache.keep(b"a", condition(5))
    assert cache.keep(b"b", condition(7)) == 0
    assert cache.get(b"b") is None
    assert cache.get(b"a") is not None


DIFFERENT = (
    Row("u", "t", "red"),
    Row("u", "t", "blue"),
    Row("u", "t", "red", b"image"),
    Row("u", "t", "red", b"other"),
    Row("u", "t", "red", b""),
    Row("u", "t", "redimage"),
    Row("u", "t", "", b"red"),
    Row("u", "t", "red", negative_prompt="blue"),
    Row("u", "t", "red", width=64, height=32),
    Row("u", "t", "red", width=32, height=64),
    Row("u", "t", "red", frames=5),
    Row("u", "t", "red", frames=9),
    Row("u", "t", "red", b"image", more_sources=(b"other",)),
    Row("u", "t", "red", b"image", more_sources=(b"other", b"")),
    Row("u", "t", "red", b"image", more_sources=(b"oth", b"er")),
    Row("u", "t", "red", b"other", more_sources=(b"image",)),
)


def test_every_input_is_part_of_the_key():
    assert len({content_key(row, True) for row in DIFFERENT}) == len(DIFFERENT)


def test_a_condition_without_the_empty_prompt_is_another_one():
    assert content_key(DIFFERENT[0], True) != content_key(DIFFERENT[0], False)


def test_what_changes_no_condition_is_not():
    scored = Row("v", "s", "red", b"image", b"target", scores=(("a", 1.0),))
    clip = Row("v", "s", "red", b"image", target_frames=(b"a", b"b"))
    plain = content_key(Row("u", "t", "red", b"image"), True)
    assert content_key(scored, True) == content_key(clip, True) == plain


def test_a_field_that_rows_get_later_is_part_of_the_key():
    """Such as a size or a negative prompt: nobody has to remember the cache."""
    from dataclasses import make_dataclass

    Later = make_dataclass("Later", [("width", int)], bases=(Row,), frozen=True, kw_only=True)
    one, other = Later("u", "t", "red", width=64), Later("u", "t", "red", width=32)
    assert content_key(one, True) != content_key(other, True)
    assert batch_key(one) != batch_key(other), "nor are they one batch"


def test_rows_with_and_without_a_source_image_are_no_batch():
    assert batch_key(DIFFERENT[0]) == batch_key(DIFFERENT[1]) != batch_key(DIFFERENT[2]) == batch_key(DIFFERENT[3])
