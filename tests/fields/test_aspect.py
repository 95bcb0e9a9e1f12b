from math import log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fields.aspect import aspect_buckets, nearest_bucket

AREAS = st.integers(256, 1 << 21)
SIDES = st.integers(1, 5000)


def fits(width: int, height: int, area: int) -> bool:
    return width * height <= area


@pytest.mark.parametrize("area", [256, 511, 512, 5000, 24 * 24 * 16, 256 * 256, 300_000])
def test_buckets_are_exactly_the_sizes_that_cannot_grow(area):
    """By trying every size."""
    sides = range(16, area // 16 + 1, 16)
    within = {(w, h) for w in sides for h in range(16, area // w + 1, 16)}
    expected = {(w, h) for w, h in within if (w + 16, h) not in within and (w, h + 16) not in within}
    assert set(aspect_buckets(area)) == expected
    assert len(aspect_buckets(area)) == len(expected)


@given(AREAS)
def test_buckets_of_any_area(area):
    buckets = aspect_buckets(area)
    assert all(w % 16 == h % 16 == 0 and fits(w, h, area) for w, h in buckets)
    assert not any(fits(w + 16, h, area) or fits(w, h + 16, area) for w, h in buckets)
    assert buckets == tuple(sorted(buckets))
    assert {(h, w) for w, h in buckets} == set(buckets)


def test_buckets_of_a_megapixel_leave_little_of_it_unused():
    area = 1024 * 1024
    usual = [(w, h) for w, h in aspect_buckets(area) if 1 / 3 <= w / h <= 3]
    assert len(usual) > 30
    assert min(w * h for w, h in usual) > 0.97 * area


@pytest.mark.parametrize(
    ("size", "bucket"),
    [
        ((1024, 1024), (1024, 1024)),
        ((24, 24), (1024, 1024)),
        ((1920, 1080), (1360, 768)),
        ((1080, 1920), (768, 1360)),
        ((4000, 3000), (1184, 880)),
        ((1, 1_000_000), (16, 65536)),
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


@pytest.mark.parametrize(("width", "height", "area"), [(0, 5, 256), (5, -1, 256), (5, 5, 255)])
def test_what_has_no_bucket_is_refused(width, height, area):
    with pytest.raises(ValueError, match=r"no aspect ratio|area = 255; a bucket needs at least 16 x 16 = 256 pixels"):
        nearest_bucket(width, height, area)
