from math import log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fields.data.aspect import aspect_buckets, nearest_bucket

AREAS = st.integers(1024, 1 << 21)
SIDES = st.integers(1, 5000)


def fits(width: int, height: int, area: int) -> bool:
    return width * height <= area


@pytest.mark.parametrize("area", [1024, 2047, 2048, 20_000, 24 * 24 * 32, 256 * 256, 1_200_000])
def test_buckets_are_exactly_the_sizes_that_cannot_grow(area):
    """By trying every size."""
    sides = range(32, area // 32 + 1, 32)
    within = {(w, h) for w in sides for h in range(32, area // w + 1, 32)}
    expected = {(w, h) for w, h in within if (w + 32, h) not in within and (w, h + 32) not in within}
    assert set(aspect_buckets(area)) == expected
    assert len(aspect_buckets(area)) == len(expected)


@given(AREAS)
def test_buckets_of_any_area(area):
    buckets = aspect_buckets(area)
    assert all(w % 32 == h % 32 == 0 and fits(w, h, area) for w, h in buckets)
    assert not any(fits(w + 32, h, area) or fits(w, h + 32, area) for w, h in buckets)
    assert buckets == tuple(sorted(buckets))
    assert {(h, w) for w, h in buckets} == set(buckets)


def test_buckets_of_a_megapixel_leave_little_of_it_unused():
    area = 1024 * 1024
    usual = [(w, h) for w, h in aspect_buckets(area) if 1 / 3 <= w / h <= 3]
    assert len(usual) > 20
    assert min(w * h for w, h in usual) > 0.97 * area


@pytest.mark.parametrize(
    ("size", "bucket"),
    [
        ((1024, 1024), (1024, 1024)),
        ((24, 24), (1024, 1024)),
        ((1920, 1080), (1344, 768)),
        ((1080, 1920), (768, 1344)),
        ((4000, 3000), (1184, 864)),
        ((1, 1_000_000), (32, 32768)),
    ],
)
def test_known_sizes_at_a_megapixel(size, bucket):
    assert nearest_bucket(*size, 1024 * 1024) == bucket


@given(SIDES, SIDES, AREAS)
def test_no_bucket_is_nearer(width, height, area):
    def distance(size: tuple[int, int]) -> float:
        return abs(log(size[0] / size[1]) - log(width / height))

    found = nearest_bucket(width, height, area)
    assert distance(found) <= min(map(distance, aspect_buckets(area))) + 1e-9


@given(AREAS)
def test_a_bucket_is_its_own_nearest(area):
    for size in aspect_buckets(area)[::7]:
        assert nearest_bucket(*size, area) == size


@pytest.mark.parametrize(("width", "height", "area"), [(0, 5, 1024), (5, -1, 1024), (5, 5, 1023)])
def test_what_has_no_bucket_is_refused(width, height, area):
    with pytest.raises(ValueError, match=r"no aspect ratio|area = 1023; a bucket needs at least 32 x 32 = 1024 pixels"):
        nearest_bucket(width, height, area)
