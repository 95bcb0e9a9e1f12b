"""The size of an image or a clip."""

from typing import NamedTuple


class Size(NamedTuple):
    """What a row asks for, beside what is to be seen.

    Attributes:
        width: in pixels.
        height: in pixels.
        frames: of a clip; 1 is an image.
    """

    width: int
    height: int
    frames: int = 1

    def asked(self, width: int | None, height: int | None, frames: int | None) -> "Size":
        """The size of a row that says these; this one where it says nothing. A width without a height says nothing."""
        if width is None or height is None:
            width, height = self.width, self.height
        return Size(width, height, self.frames if frames is None else frames)

    @property
    def image(self) -> tuple[int, int]:
        """Width and height of a frame."""
        return self.width, self.height

    def __str__(self) -> str:
        frames = "" if self.frames == 1 else f"{self.frames} frames of "
        return f"{frames}{self.width} x {self.height}"
