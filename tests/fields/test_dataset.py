import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fields.dataset import Bucket, Row, decode_image, encode_png, to_bytes

ROWS = [
    {"uid": "u0", "task": "colour", "prompt": "a red circle", "source_image": None, "target_image": b"t0"},
    {"uid": "u1", "task": "add", "prompt": "", "source_image": b"s1", "target_image": None},
    {"uid": "u2", "task": "add", "prompt": "ü", "source_image": b"", "target_image": b"\x00\xff"},
]


def write(path, rows, drop=()):
    pq.write_table(pa.Table.from_pylist(rows).drop_columns(list(drop)), path)
    return path


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_rows_are_what_was_written(tmp_path):
    bucket = Bucket(write(tmp_path / "b.parquet", ROWS))
    assert len(bucket) == 3
    assert [bucket[n] for n in (2, 0, 1)] == [Row(**ROWS[n]) for n in (2, 0, 1)]


def test_image_columns_may_be_missing_and_others_are_ignored(tmp_path):
    rows = [{"extra": 1.5, **row} for row in ROWS]
    bucket = Bucket(str(write(tmp_path / "b.parquet", rows, ("source_image", "target_image"))))
    assert bucket[1] == Row("u1", "add", "", None, None)


def test_a_row_that_is_not_there_is_an_index_error(tmp_path):
    bucket = Bucket(write(tmp_path / "b.parquet", ROWS))
    for row in (3, 100, -1):
        with pytest.raises(IndexError):
            bucket[row]


@pytest.mark.parametrize("column", ["uid", "task", "prompt"])
def test_a_missing_column_is_named(tmp_path, column):
    path = write(tmp_path / "b.parquet", ROWS, (column,))
    with pytest.raises(ValueError, match=rf"b\.parquet lacks column '{column}'; it has .*source_image"):
        Bucket(path)


def test_an_empty_file_has_no_rows(tmp_path):
    path = tmp_path / "b.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS).slice(0, 0), path)
    with pytest.raises(ValueError, match=r"b\.parquet has no rows"):
        Bucket(path)


def test_a_missing_file_is_named(tmp_path):
    for path in (tmp_path / "none.parquet", tmp_path):
        with pytest.raises(ValueError, match=f"no such file: {path}"):
            Bucket(path)


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b"uid,task\n", lambda b: b[:-9], lambda b: b"PAR1" + b[8:-4]])
def test_what_is_not_parquet_is_refused(tmp_path, damage):
    path = write(tmp_path / "b.parquet", ROWS)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"b\.parquet cannot be read as Parquet"):
        Bucket(path)


COLOUR = (200, 40, 90)
FLAT = Image.new("RGB", (6, 4), COLOUR)
GREY = np.full((4, 6), 120, np.uint8)
MODES = {
    "RGB png": (encoded(FLAT, "PNG"), COLOUR),
    "RGBA png": (encoded(Image.new("RGBA", (6, 4), (*COLOUR, 255)), "PNG"), COLOUR),
    "palette png": (encoded(FLAT.convert("P", palette=Image.Palette.ADAPTIVE), "PNG"), COLOUR),
    "palette gif": (encoded(FLAT, "GIF"), COLOUR),
    "grey png": (encoded(Image.fromarray(GREY), "PNG"), (120, 120, 120)),
    "grey jpeg": (encoded(Image.fromarray(GREY), "JPEG"), (120, 120, 120)),
    "grey and alpha png": (encoded(Image.fromarray(GREY).convert("LA"), "PNG"), (120, 120, 120)),
    "one bit png": (encoded(Image.fromarray(GREY).point(lambda v: 255).convert("1"), "PNG"), (255, 255, 255)),
    "16 bit grey png": (encoded(Image.fromarray(GREY.astype(np.uint16) * 257), "PNG"), (120, 120, 120)),
    "16 bit grey tiff": (encoded(Image.fromarray(GREY.astype(np.uint16) * 257), "TIFF"), (120, 120, 120)),
    "RGB jpeg": (encoded(FLAT, "JPEG", quality=100), COLOUR),
    "RGB tiff": (encoded(FLAT, "TIFF"), COLOUR),
    "CMYK jpeg": (encoded(Image.new("CMYK", (6, 4), (55, 215, 165, 0)), "JPEG", quality=100), COLOUR),
    "CMYK tiff": (encoded(Image.new("CMYK", (6, 4), (55, 215, 165, 0)), "TIFF"), COLOUR),
    "YCbCr tiff": (encoded(FLAT.convert("YCbCr"), "TIFF"), COLOUR),
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


def test_an_image_that_claims_to_be_huge_names_its_row():
    """Pillow refuses decompression bombs with an error of its own; one damaged byte of a header makes one."""
    data = bytearray(encoded(FLAT, "BMP"))
    data[18:26] = (40_000).to_bytes(4, "little") * 2
    with pytest.raises(ValueError, match="row 'u'"):
        decode_image(bytes(data), "u")


@given(st.integers(0, 2**32 - 1))
def test_png_keeps_a_float_image_to_half_a_level(seed):
    image = np.random.default_rng(seed).random((3, 5, 4), dtype=np.float32)
    assert np.abs(decode_image(encode_png(image), "u") - image).max() <= 0.5 / 255 + 1e-6


def test_bytes_are_rounded_and_clipped():
    image = np.array([-0.5, 0.0, 0.499 / 255, 0.501 / 255, 1.0, 7.0], np.float32).reshape(1, 2, 3).repeat(3, axis=0)
    assert to_bytes(image)[..., 1].tolist() == [[0, 0, 0], [1, 255, 255]]
