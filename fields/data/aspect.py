"""Aspect buckets: the few image sizes of one area, so that latents of one batch can share a shape."""

from math import isqrt, log

MULTIPLE = 32  # of pixels, which every family takes: Sana's cells are so large, two cells of the others 16


def aspect_buckets(area: int) -> tuple[tuple[int, int], ...]:
    """The buckets (width, height) of an area, narrow to wide.

    They are all the sizes in multiples of 32 that stay within the area and would leave it with 32 pixels more on either
    side. So no bucket needs more memory than the area, and none is contained in another.

    Args:
        area: in pixels, at least 32 * 32.

    Raises:
        ValueError: if the area is smaller.
    """
    if area < MULTIPLE**2:
        raise ValueError(f"area = {area}; a bucket needs at least {MULTIPLE} x {MULTIPLE} = {MULTIPLE**2} pixels")
    cells = area // MULTIPLE**2
    root = isqrt(cells)
    wide = {cells // n: n for n in range(1, root + 1)}  # width -> height; of equal widths the tallest
    narrow = {height: width for width, height in wide.items()}
    sizes = sorted(narrow.items() | wide.items())
    return tuple((width * MULTIPLE, height * MULTIPLE) for width, height in sizes)


def nearest_bucket(width: int, height: int, area: int) -> tuple[int, int]:
    """The bucket of an area whose aspect ratio is nearest to width : height, as a factor; of two as near the narrower.

    Args:
        width: of an image, in pixels or any other unit.
        height: of the image, in the same unit.
        area: in pixels, at least 32 * 32.

    Raises:
        ValueError: if the area is smaller, or a side is not positive.

    >>> nearest_bucket(1920, 1080, area=512 * 512)
    (672, 384)
    """
    if width < 1 or height < 1:
        raise ValueError(f"an image of {width} x {height} pixels has no aspect ratio")
    return min(aspect_buckets(area), key=lambda size: abs(log(size[0] * height) - log(size[1] * width)))
