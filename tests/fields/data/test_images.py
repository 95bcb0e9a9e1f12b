"""How images are decoded: every mode as a viewer shows it, and what is no image, or too large a one, refused."""

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, features

from fields.data.images import FRAME_MS, decode_image, encode, encode_png, image_size, to_bytes


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width, height, bits, kind, pixels=b""):
    """A PNG made by hand, of bits a channel and one of PNG's kinds of colour."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">2I5B", width, height, bits, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def png_of_16_bits(colour):
    """A 6 x 4 PNG of one colour with 16 bits a channel, which Pillow reads but cannot write."""
    return png(6, 4, 16, 2, (b"\0" + struct.pack(">3H", *colour) * 6) * 4)


COLOUR = (200, 40, 90)
OVER_WHITE = tuple(0.2 * level + 0.8 * 255 for level in COLOUR)  # at an opacity of 51 / 255
FLAT = Image.new("RGB", (6, 4), COLOUR)
GREY = np.full((4, 6), 120, np.uint8)
MODES = {
    "RGB png": (encoded(FLAT, "PNG"), COLOUR),
    "RGBA png": (encoded(Image.new("RGBA", (6, 4), (*COLOUR, 255)), "PNG"), COLOUR),
    "half transparent png": (encoded(Image.new("RGBA", (6, 4), (*COLOUR, 51)), "PNG"), OVER_WHITE),
    "transparent grey png": (encoded(Image.new("LA", (6, 4), (120, 0)), "PNG"), (255, 255, 255)),
    "transparent palette png": (encoded(Image.new("P", (6, 4), 0), "PNG", transparency=0), (255, 255, 255)),
    "palette png": (encoded(FLAT.convert("P", palette=Image.Palette.ADAPTIVE), "PNG"), COLOUR),
    "palette gif": (encoded(FLAT, "GIF"), COLOUR),
    "grey png": (encoded(Image.fromarray(GREY), "PNG"), (120, 120, 120)),
    "grey jpeg": (encoded(Image.fromarray(GREY), "JPEG"), (120, 120, 120)),
    "grey and alpha png": (encoded(Image.fromarray(GREY).convert("LA"), "PNG"), (120, 120, 120)),
    "one bit png": (encoded(Image.fromarray(GREY).point(lambda v: 255).convert("1"), "PNG"), (255, 255, 255)),
    "16 bit grey png": (encoded(Image.fromarray(GREY.astype(np.uint16) * 257), "PNG"), (120, 120, 120)),
    "16 bit grey tiff": (encoded(Image.fromarray(GREY.astype(np.uint16) * 257), "TIFF"), (120, 120, 120)),
    "16 bit grey pgm": (b"P5 6 4 65535\n" + (GREY.astype(">u2") * 257).tobytes(), (120, 120, 120)),
    "16 bit RGB png": (png_of_16_bits((51400, 10280, 23130)), COLOUR),
    "RGB jpeg": (encoded(FLAT, "JPEG", quality=100), COLOUR),
    "RGB tiff": (encoded(FLAT, "TIFF"), COLOUR),
    "CMYK jpeg": (encoded(Image.new("CMYK", (6, 4), (55, 215, 165, 0)), "JPEG", quality=100), COLOUR),
    "CMYK tiff": (encoded(Image.new("CMYK", (6, 4), (55, 215, 165, 0)), "TIFF"), COLOUR),
    "YCbCr tiff": (encoded(FLAT.convert("YCbCr"), "TIFF"), COLOUR),
    "RGB bmp": (encoded(FLAT, "BMP"), COLOUR),
    "lossless webp": (encoded(FLAT, "WEBP", lossless=True), COLOUR),
}


@pytest.mark.parametrize(("data", "colour"), MODES.values(), ids=MODES.keys())
def test_every_mode_is_read_as_rgb_between_0_and_1(data, colour):
    image = decode_image(data, "u")
    assert image.dtype == np.float32
    assert image.shape == (3, 4, 6)
    np.testing.assert_allclose(image, np.broadcast_to(np.array(colour)[:, None, None] / 255, image.shape), atol=2.5 / 255)


def test_rows_and_columns_keep_their_places():
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    assert np.array_equal(
        decode_image(encoded(Image.fromarray(pixels), "PNG"), "u"), pixels.transpose(2, 0, 1) / np.float32(255)
    )


UPRIGHT = np.arange(2 * 3, dtype=np.uint8).reshape(2, 3) * 40
STORED = {  # how the upright image lies in a file of each EXIF orientation
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.T,
    6: UPRIGHT.T[::-1],
    7: UPRIGHT.T[::-1, ::-1],
    8: UPRIGHT.T[:, ::-1],
}


@pytest.mark.parametrize("orientation", STORED)
def test_photographs_are_turned_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(np.ascontiguousarray(STORED[orientation])), "PNG", exif=exif)
    assert np.array_equal(decode_image(data, "u")[0], UPRIGHT / np.float32(255))
    assert image_size(data, "u") == (3, 2)


def test_floating_point_pixels_are_refused():
    with pytest.raises(ValueError, match="row 'u'"):
        decode_image(encoded(Image.new("F", (6, 4), 0.5), "TIFF"), "u")


PNG = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)), "PNG")
NO_IMAGES = {"empty": b"", "text": b"not an image", "signature": PNG[:8], "half": PNG[: len(PNG) // 2], "zeros": bytes(100)}


@pytest.mark.parametrize("data", NO_IMAGES.values(), ids=NO_IMAGES.keys())
def test_what_does_not_decode_names_its_row(data):
    with pytest.raises(ValueError, match=rf"row 'u-17': the image of {len(data)} bytes does not decode"):
        decode_image(data, "u-17")


@given(st.integers(0, len(PNG) - 1), st.integers(1, 255))
def test_a_png_with_a_damaged_byte_decodes_or_names_its_row(place, change):
    data = bytearray(PNG)
    data[place] ^= change
    try:
        decoded = decode_image(bytes(data), "u").shape
    except ValueError as error:
        decoded = str(error)
    assert decoded == (3, 16, 16) or "row 'u'" in decoded


EXIF = Image.Exif()
EXIF.update({0x0112: 6, 0x010E: "a photograph"})
PHOTOGRAPH = encoded(Image.fromarray(np.zeros((16, 16, 3), np.uint8)), "JPEG", exif=EXIF)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about damaged EXIF blocks
@given(st.lists(st.tuples(st.integers(0, 120), st.integers(0, 255)), min_size=1, max_size=3))
def test_a_photograph_with_a_damaged_header_decodes_or_names_its_row(changes):
    data = bytearray(PHOTOGRAPH)
    for place, value in changes:
        data[place] = value
    for read in (decode_image, image_size):
        message = "row 'u'"
        try:
            read(bytes(data), "u")
        except ValueError as error:
            message = str(error)
        assert message.startswith("row 'u'")


def test_an_image_that_claims_to_be_huge_names_its_row():
    """Pillow refuses decompression bombs with an error of its own; one damaged byte of a header makes one."""
    data = bytearray(encoded(FLAT, "BMP"))
    data[18:26] = (40_000).to_bytes(4, "little") * 2
    with pytest.raises(ValueError, match="row 'u'"):
        decode_image(bytes(data), "u")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # pytest forgets the filter of the module
@pytest.mark.parametrize(("width", "height"), [(8001, 8000), (13_000, 13_000), (100_000, 100_000)])
@pytest.mark.parametrize("read", [decode_image, image_size])
def test_more_pixels_than_anybody_needs_are_refused_by_the_header(read, width, height):
    data = png(width, height, 8, 6)
    with pytest.raises(ValueError, match=rf"row 'u': the image of {len(data)} bytes has more than 64000000 pixels"):
        read(data, "u")


def test_as_many_pixels_as_are_allowed_are_read():
    data = png(8000, 8000, 1, 0, (b"\0" + bytes(1000)) * 8000)
    assert image_size(data, "u") == (8000, 8000)


def test_pillow_prints_no_warning_of_its_own():
    """In a process of its own, because pytest has filters of its own."""
    script = (
        "import sys\nfrom fields.data.images import decode_image\ndata = sys.stdin.buffer.read()\n"
        "try:\n    decode_image(data, 'u')\nexcept ValueError as error:\n    print(error)\n"
    )
    data = png(13_000, 13_000, 8, 6)
    finished = subprocess.run([sys.executable, "-c", script], input=data, capture_output=True, check=True)
    assert finished.stderr == b""
    assert b"more than 64000000 pixels" in finished.stdout


@pytest.mark.parametrize("kind", ["DDS", "SPIDER", "AVIF", "TGA"])
def test_formats_that_nobody_asked_for_are_not_decoded(kind):
    image = FLAT.convert("F") if kind == "SPIDER" else FLAT
    data = encoded(image, kind) if kind != "AVIF" or features.check("avif") else b"no AVIF here"
    with pytest.raises(ValueError, match=rf"row 'u': the image of {len(data)} bytes does not decode"):
        image_size(data, "u")


@given(st.integers(0, 2**32 - 1))
def test_png_keeps_a_float_image_to_half_a_level(seed):
    image = np.random.default_rng(seed).random((3, 5, 4), dtype=np.float32)
    assert np.abs(decode_image(encode_png(image), "u") - image).max() <= 0.5 / 255 + 1e-6


def test_bytes_are_rounded_and_clipped():
    image = np.array([-0.5, 0.0, 0.499 / 255, 0.501 / 255, 1.0, 7.0], np.float32).reshape(1, 2, 3).repeat(3, axis=0)
    assert to_bytes(image)[..., 1].tolist() == [[0, 0, 0], [1, 255, 255]]


def test_a_clip_is_an_animated_gif_of_its_frames():
    clip = np.linspace(0, 1, 5, dtype=np.float32)[None, :, None, None] * np.ones((3, 5, 4, 6), np.float32)
    found = Image.open(io.BytesIO(encode(clip)))
    assert (found.format, found.size, getattr(found, "n_frames", 1)) == ("GIF", (6, 4), 5)
    for n in range(5):
        found.seek(n)
        assert found.info["duration"] == FRAME_MS
        np.testing.assert_array_equal(np.asarray(found.convert("RGB")), to_bytes(clip[:, n]))
    assert encode(clip[:, 0]) == encode_png(clip[:, 0])
