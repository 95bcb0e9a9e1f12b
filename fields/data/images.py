"""How the images of a data set are read, and how an image is written."""

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps

T = TypeVar("T")


IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


# What Pillow raises for damaged files, headers and EXIF blocks; an unknown format is an OSError.
_UNREADABLE = (Image.DecompressionBombError, OSError, SyntaxError, TypeError, ValueError, struct.error)


_ORIENTATION = 0x0112  # EXIF tag; the values 5 to 8 exchange width and height


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
