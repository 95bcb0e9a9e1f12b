import io
import struct
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fields.data.bucket import Bucket
from fields.data.images import decode_image, encode_png, image_size, to_bytes
from fields.data.rows import Row

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


def test_every_column_is_read_and_empty_cells_are_none(tmp_path):
    full = {**ROWS[1], "negative_prompt": "blurry", "width": 640, "height": 480}
    empty = {**ROWS[0], "negative_prompt": None, "width": None, "height": None}
    bucket = Bucket(write(tmp_path / "b.parquet", [full, empty]))
    assert bucket[0] == Row("u1", "add", "", b"s1", None, "blurry", 640, 480)
    assert bucket[1] == Row("u0", "colour", "a red circle", None, b"t0", None, None, None)


def test_images_may_be_paths_relative_to_the_file(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"pixels")
    bucket = Bucket(write(tmp_path / "b.parquet", [{**ROWS[0], "source_image": "images/a.png"}]))
    assert bucket[0].source_image == b"pixels"


@pytest.mark.parametrize("name", ["none.png", "", "images", "x\nend"])
def test_a_path_without_an_image_names_file_and_row(tmp_path, name):
    (tmp_path / "images").mkdir()
    bucket = Bucket(write(tmp_path / "b.parquet", [{**ROWS[0], "source_image": name}]))
    with pytest.raises(ValueError, match=r"b\.parquet row 0 \('u0'\): source_image '.*' does not exist in"):
        bucket[0]


@pytest.mark.parametrize("name", ["../secret.png", "{outside}/secret.png", "link/secret.png", "a/../../secret.png", "a\0b"])
def test_a_path_must_not_leave_the_folder(tmp_path, name):
    (tmp_path / "data").mkdir()
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "data" / "link").symlink_to(tmp_path)
    row = {**ROWS[0], "source_image": name.format(outside=tmp_path)}
    bucket = Bucket(write(tmp_path / "data" / "b.parquet", [row]))
    with pytest.raises(ValueError, match=r"b\.parquet row 0 \('u0'\): source_image '.*' leaves the folder"):
        bucket[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": 3}, "column 'prompt' is int64; it must be string"),
        ({"uid": b"u"}, "column 'uid' is binary; it must be string"),
        ({"negative_prompt": 1.5}, "column 'negative_prompt' is double; it must be string"),
        ({"task": None}, "column 'task' is null; it must be string"),
        ({"source_image": [1]}, r"column 'source_image' is list.*; it must be binary \(encoded images\) or string \(paths\)"),
        ({"width": "640"}, "column 'width' is string; it must be a whole number"),
    ],
)
def test_a_column_of_a_wrong_type_is_named(tmp_path, changes, message):
    with pytest.raises(ValueError, match=rf"b\.parquet: {message}"):
        Bucket(write(tmp_path / "b.parquet", [{**ROWS[0], **changes}]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"prompt": None}, "prompt is empty"), ({"width": 0}, "width is 0; it must be from 1 to 100000")],
)
def test_a_value_that_cannot_be_names_file_and_row(tmp_path, changes, message):
    bucket = Bucket(write(tmp_path / "b.parquet", [{**ROWS[0], "width": 8}, {**ROWS[1], **changes}]))
    with pytest.raises(ValueError, match=rf"b\.parquet row 1 \('u1'\): {message}"):
        bucket[1]


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


def png_of_16_bits(colour):
    """A 6 x 4 PNG of one colour with 16 bits a channel, which Pillow reads but cannot write."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = (b"\0" + struct.pack(">3H", *colour) * 6) * 4
    header = struct.pack(">2I5B", 6, 4, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


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


@given(st.integers(0, 2**32 - 1))
def test_png_keeps_a_float_image_to_half_a_level(seed):
    image = np.random.default_rng(seed).random((3, 5, 4), dtype=np.float32)
    assert np.abs(decode_image(encode_png(image), "u") - image).max() <= 0.5 / 255 + 1e-6


def test_bytes_are_rounded_and_clipped():
    image = np.array([-0.5, 0.0, 0.499 / 255, 0.501 / 255, 1.0, 7.0], np.float32).reshape(1, 2, 3).repeat(3, axis=0)
    assert to_bytes(image)[..., 1].tolist() == [[0, 0, 0], [1, 255, 255]]


def test_the_size_that_a_row_asks_for(tmp_path):
    rows = [{"uid": "u", "task": "t", "prompt": "p", "width": w, "height": h} for w, h in ((64, 32), (None, 32), (None, None))]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows")
    assert [Bucket(tmp_path / "rows").size(n) for n in range(3)] == [(64, 32), None, None]
    pq.write_table(pa.Table.from_pylist(rows).drop_columns(["width"]), tmp_path / "rows")
    assert Bucket(tmp_path / "rows").size(0) is None
