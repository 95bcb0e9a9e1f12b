"""A route's bucket: rows of a Parquet file."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image, UnidentifiedImageError

COLUMNS = ("uid", "task", "prompt", "source_image", "target_image", "negative_prompt", "width", "height")
REQUIRED = ("uid", "task", "prompt")


@dataclass(frozen=True, slots=True)
class Row:
    """One row: a prompt, and for edits the encoded image (PNG, JPEG) to edit and one right answer.

    `negative_prompt` is what guidance turns away from; `width` and `height` are the image's size in pixels. Without them
    the prompt is dropped, and the size is the family's default.
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
    """The rows of one route.

    Raises:
        ValueError: if the file is missing, is not Parquet, lacks a required column or has no rows.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        if not self.path.is_file():
            raise ValueError(f"no such file: {self.path}")
        try:
            table = pq.read_table(self.path, memory_map=True)
        except (OSError, ValueError) as error:  # pyarrow's errors are subclasses of these
            raise ValueError(f"{self.path} cannot be read as Parquet: {error}") from error
        if missing := [name for name in REQUIRED if name not in table.column_names]:
            raise ValueError(f"{self.path} lacks column {missing[0]!r}; it has {', '.join(table.column_names)}")
        if table.num_rows == 0:
            raise ValueError(f"{self.path} has no rows")
        self._table = table.select([name for name in COLUMNS if name in table.column_names])

    def __len__(self) -> int:
        return self._table.num_rows

    def __getitem__(self, row: int) -> Row:
        return Row(**self._table.slice(row, 1).to_pylist()[0])


def decode_image(data: bytes, uid: str) -> np.ndarray:
    """An encoded image as float32 (3, H, W) in [0, 1].

    Raises:
        ValueError: if the bytes are no image; names the row.
    """
    try:
        image = Image.open(io.BytesIO(data))
        if image.mode.startswith("I;16"):  # Pillow's own conversion clips at 255
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        image = image.convert("RGB")
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError) as error:
        raise ValueError(f"row {uid!r}: the image of {len(data)} bytes does not decode") from error
    return np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / 255


def encode_png(image: np.ndarray) -> bytes:
    """A float image (3, H, W) in [0, 1] as PNG bytes."""
    buffer = io.BytesIO()
    Image.fromarray(to_bytes(image)).save(buffer, format="PNG")
    return buffer.getvalue()


def to_bytes(image: np.ndarray) -> np.ndarray:
    """A float image (3, H, W) in [0, 1] as uint8 (H, W, 3); values outside are clipped."""
    return np.rint(np.clip(image, 0, 1).transpose(1, 2, 0) * 255).astype(np.uint8)
