"""How the images of a data set are read, and how an image is written."""

import io
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps

from fields.shown import one_line, shown

T = TypeVar("T")

FRAME_MS = 60  # of an animated GIF, which counts in 10 ms; a frame of Wan's 16 a second takes 62.5

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "ICO", "PPM")  # Pillow's other decoders are hardly used or tried
MOST_PIXELS = 64_000_000  # of an image; decoded it takes up to 16 bytes a pixel, and a file of 200 kB can claim any number
MOST_BYTES = 256 * 2**20  # of a file; 64 megapixels of RGBA have fewer, even uncompressed


# What Pillow raises for damaged files, headers and EXIF blocks; an unknown format is an OSError.
_UNREADABLE = (OSError, SyntaxError, TypeError, ValueError, struct.error)


_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
warnings.simplefilter("error", Image.DecompressionBombWarning)  # Pillow prints it from 89 megapixels on; here they are refused


_ORIENTATION = 0x0112  # EXIF tag; the values 5 to 8 exchange width and height


def image_files(folder: Path) -> list[Path]:
    """The images in a folder and the folders below, in the order of their names.

    Raises:
        ValueError: if there is no such folder, or none in it, or one of them is no file: a folder, a pipe, a link to nowhere.
    """
    if not folder.is_dir():
        raise ValueError(f"no such folder: {folder}")
    images = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not images:
        raise ValueError(f"{folder} has no images; they are found by {', '.join(IMAGE_SUFFIXES)}")
    if wrong := [path for path in images if not path.is_file()]:
        raise ValueError(f"{wrong[0]} is named like an image, but is no file")
    return images


def read_inside(folder: Path, name: str, where: str) -> bytes:
    """The bytes of a file that a data set names by its path, relative to the data set's folder.

    Args:
        folder: of the data set.
        name: the file's path in it.
        where: names file, row and column in messages.

    Raises:
        ValueError: if the path leaves the folder, be it by a link, or there is no such file, or it cannot be read, or it has
            more than MOST_BYTES bytes.
    """
    path = folder / name
    try:
        if "\0" in name or not path.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"{where} {shown(name)} leaves the folder {folder}")
        if not path.is_file():
            raise ValueError(f"{where} {shown(name)} does not exist in {folder}")
        if (size := path.stat().st_size) > MOST_BYTES:
            raise ValueError(f"{where} {shown(name)} has {size / 2**20:.0f} MiB; at most {MOST_BYTES >> 20} are read")
        return path.read_bytes()
    except (OSError, RuntimeError, UnicodeEncodeError) as error:  # the second for a link to itself
        raise ValueError(f"{where} {shown(name)} cannot be read: {one_line(error)}") from error


def decode_image(data: bytes, uid: str) -> np.ndarray:
    """An encoded image as a viewer shows it, float32 (3, H, W) in [0, 1].

    Turned upright by its EXIF orientation, transparency laid over white, 16 bits cut to 8.

    Raises:
        ValueError: if the bytes are no image, or one of more than MOST_PIXELS; names the row.
    """
    image = _read(data, uid, _upright_rgb)
    return np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / 255


def image_size(data: bytes, uid: str) -> tuple[int, int]:
    """Width and height of an encoded image, upright, from its header alone.

    Raises:
        ValueError: if the bytes are no image, or one of more than MOST_PIXELS; names the row.
    """
    return _read(data, uid, _upright_size)


def _upright_size(image: Image.Image) -> tuple[int, int]:
    sideways = image.getexif().get(_ORIENTATION, 1) >= 5
    return (image.height, image.width) if sideways else (image.width, image.height)


def _read(data: bytes, uid: str, read: Callable[[Image.Image], T]) -> T:
    """What `read` makes of the opened image, of which only the header was read so far."""
    where = f"row {shown(uid)}: the image of {len(data)} bytes"
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > MOST_PIXELS:
            raise Image.DecompressionBombError
        return read(image)
    except _BOMBS as error:
        raise ValueError(f"{where} has more than {MOST_PIXELS} pixels") from error
    except _UNREADABLE as error:
        raise ValueError(f"{where} does not decode") from error


def _upright_rgb(image: Image.Image) -> Image.Image:
    ImageOps.exif_transpose(image, in_place=True)  # which copies nothing where nothing is to be turned
    return _as_rgb(image)


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):  # 16 bits of grey; Pillow's own conversion clips at 255
        return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def encode_png(image: np.ndarray) -> bytes:
    """A float image (3, H, W) in [0, 1] as PNG bytes."""
    buffer = io.BytesIO()
    Image.fromarray(to_bytes(image)).save(buffer, format="PNG")
    return buffer.getvalue()


def encode_gif(clip: np.ndarray, seconds: float | None = None) -> bytes:
    """A float clip (3, frames, H, W) in [0, 1] as an animated GIF that repeats: 256 colours per frame, all of a length.

    Args:
        clip: the frames.
        seconds: that they take together; None shows each for FRAME_MS.
    """
    frame_ms = FRAME_MS if seconds is None else 1000 * seconds / clip.shape[1]
    frames = [Image.fromarray(to_bytes(frame)) for frame in clip.swapaxes(0, 1)]
    buffer = io.BytesIO()
    frames[0].save(buffer, format="GIF", save_all=True, append_images=frames[1:], duration=round(frame_ms), loop=0)
    return buffer.getvalue()


def encode(made: np.ndarray) -> bytes:
    """An image (3, H, W) as PNG, a clip (3, frames, H, W) as an animated GIF."""
    return encode_png(made) if made.ndim == 3 else encode_gif(made)


def to_bytes(image: np.ndarray) -> np.ndarray:
    """A float image (3, H, W) in [0, 1] as uint8 (H, W, 3); values outside are clipped."""
    return np.rint(np.clip(image, 0, 1).transpose(1, 2, 0) * 255).astype(np.uint8)
