"""A route's bucket: rows of a Parquet file, and how the images in them are read."""

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps

from fields.columns import IMAGES, LONGEST_SIDE, REQUIRED, SIZES, check_columns
from fields.row_groups import RowGroups
from fields.schedule import Size

T = TypeVar("T")

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")

# What Pillow raises for damaged files, headers and EXIF blocks; an unknown format is an OSError.
_UNREADABLE = (Image.DecompressionBombError, OSError, SyntaxError, TypeError, ValueError, struct.error)
_ORIENTATION = 0x0112  # EXIF tag; the values 5 to 8 exchange width and height


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a data set.

    Attributes:
        uid: names the row in messages.
        task: what kind of task it is; for reading, nothing is decided by it.
        prompt: a caption, or for edits the instruction.
        source_image: for edits the encoded image (PNG, JPEG, ...) to edit.
        target_image: one right answer, encoded.
        negative_prompt: what the operator of that name leads away from.
        width, height: of the image to make, in pixels; None leaves it to the model family.
    """

    uid: str
    task: str
    prompt: str
    source_image: bytes | None = None
    target_image: bytes | None = None
    negative_prompt: str | None = None
    width: int | None = None
    height: int | None = None


class Bucket:
    """The rows of one route, read lazily by row group; `fields/row_groups.py` says which size of group is good.

    The columns `uid`, `task`, `prompt` are required; `negative_prompt`, `source_image`, `target_image`, `width` and
    `height` are optional, others are ignored. An image column holds encoded images, or paths relative to the file's folder.

    Raises:
        ValueError: if the file is missing, is not Parquet, lacks a required column, has one of a wrong type, or has no rows.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self._groups = RowGroups(self.path)
        self._columns = check_columns(self.path, self._groups.schema)
        if len(self._groups) == 0:
            raise ValueError(f"{self.path} has no rows")

    def __len__(self) -> int:
        return len(self._groups)

    def __getitem__(self, number: int) -> Row:
        """A row by its number, images read in.

        Raises:
            IndexError: if there is no such row.
            ValueError: names the file, the row and the column that is empty, or whose image is not there.
        """
        values = self._groups.row(number, self._columns)
        where = f"{self.path} row {number} ({values['uid']!r})"
        if empty := [name for name in REQUIRED if values[name] is None]:
            raise ValueError(f"{where}: {empty[0]} is empty")
        for name in SIZES:
            if (size := values.get(name)) is not None and not 1 <= size <= LONGEST_SIDE:
                raise ValueError(f"{where}: {name} is {size}; it must be from 1 to {LONGEST_SIDE}")
        for name in IMAGES:
            if isinstance(values.get(name), str):
                values[name] = read_image_file(self.path.parent, values[name], f"{where}: {name}")
        return Row(**values)

    def size(self, number: int) -> Size | None:
        """Width and height in pixels that a row asks for, if it does; a file without such columns is not read."""
        if not all(name in self._columns for name in SIZES):
            return None
        values = self._groups.row(number, self._columns)
        width, height = (values[name] for name in SIZES)
        return None if width is None or height is None else (width, height)


def image_files(folder: Path) -> list[Path]:
    """The images in a folder and the folders below, in the order of their names.

    Raises:
        ValueError: if there is no such folder, or none in it.
    """
    if not folder.is_dir():
        raise ValueError(f"no such folder: {folder}")
    images = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not images:
        raise ValueError(f"{folder} has no images; they are found by {', '.join(IMAGE_SUFFIXES)}")
    return images


def read_image_file(folder: Path, name: str, where: str) -> bytes:
    """The bytes of an image that a data set names by its path, relative to the data set's folder.

    Raises:
        ValueError: if the path leaves the folder or there is no such file; `where` names file and row.
    """
    path = folder / name
    if "\0" in name or not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{where} {name!r} leaves the folder {folder}")
    if not path.is_file():
        raise ValueError(f"{where} {name!r} does not exist in {folder}")
    return path.read_bytes()


def decode_image(data: bytes, uid: str) -> np.ndarray:
    """An encoded image as a viewer shows it, float32 (3, H, W) in [0, 1].

    Turned upright by its EXIF orientation, transparency laid over white, 16 bits cut to 8.

    Raises:
        ValueError: if the bytes are no image; names the row.
    """
    image = _read(data, uid, lambda image: _as_rgb(ImageOps.exif_transpose(image)))
    return np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / 255


def image_size(data: bytes, uid: str) -> tuple[int, int]:
    """Width and height of an encoded image, upright, from its header alone.

    Raises:
        ValueError: if the bytes are no image; names the row.
    """
    return _read(data, uid, _upright_size)


def _upright_size(image: Image.Image) -> tuple[int, int]:
    sideways = image.getexif().get(_ORIENTATION, 1) >= 5
    return (image.height, image.width) if sideways else (image.width, image.height)


def _read(data: bytes, uid: str, read: Callable[[Image.Image], T]) -> T:
    """What `read` makes of the opened image."""
    try:
        return read(Image.open(io.BytesIO(data)))
    except _UNREADABLE as error:
        raise ValueError(f"row {uid!r}: the image of {len(data)} bytes does not decode") from error


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):  # 16 bits of grey; Pillow's own conversion clips at 255
        return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def encode_png(image: np.ndarray) -> bytes:
    """A float image (3, H, W) in [0, 1] as PNG bytes."""
    buffer = io.BytesIO()
    Image.fromarray(to_bytes(image)).save(buffer, format="PNG")
    return buffer.getvalue()


def to_bytes(image: np.ndarray) -> np.ndarray:
    """A float image (3, H, W) in [0, 1] as uint8 (H, W, 3); values outside are clipped."""
    return np.rint(np.clip(image, 0, 1).transpose(1, 2, 0) * 255).astype(np.uint8)
