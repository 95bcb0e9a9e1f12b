"""One row of a data set, as every part of a run sees it; reading it from a file is the work of `fields/data/bucket.py`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fields.shown import shown

_SUM_TOLERANCE = 1e-4  # of scores: those of a softmax in half precision are off by less
LONGEST_TEXT = 100_000  # characters; encoders read some hundred words, so beyond it a text is a mistake or an attack


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a data set.

    Attributes:
        uid: names the row in messages.
        task: the kind of task, for people and reports; it changes nothing in training.
        prompt: a caption, or for edits the instruction.
        source_image: for edits the encoded image (PNG, JPEG, ...) to edit, or the first of several.
        target_image: an image that would be right, encoded.
        negative_prompt: what an operator with a negative prompt leads away from.
        width, height: of the image to make, in pixels; None leaves it to the model family.
        more_sources: the other source images, encoded, in their order.
        scores: (route, how much of its skill the row needs), which sum to 1; None leaves the row to the route that it is of.
        frames: of the clip to make, 1 for an image; None leaves it to the model family.
        target_frames: a clip that would be right, a frame each, encoded.

    Raises:
        ValueError: for a text of more than LONGEST_TEXT characters, scores that are none, or a target that is two, or of other
            frames than the row asks for; names the row, shows no text.
    """

    uid: str
    task: str
    prompt: str
    source_image: bytes | None = None
    target_image: bytes | None = None
    negative_prompt: str | None = None
    width: int | None = None
    height: int | None = None
    scores: tuple[tuple[str, float], ...] | None = None
    more_sources: tuple[bytes, ...] = ()
    frames: int | None = None
    target_frames: tuple[bytes, ...] = ()

    @property
    def sources(self) -> tuple[bytes, ...]:
        """All source images, encoded; empty for a row that edits none."""
        return () if self.source_image is None else (self.source_image, *self.more_sources)

    @property
    def targets(self) -> tuple[bytes, ...]:
        """The frames of its target, encoded, one of an image; empty for a row without one."""
        return self.target_frames if self.target_image is None else (self.target_image,)

    def __post_init__(self) -> None:
        if self.target_image is not None and self.target_frames:
            raise ValueError(f"row {shown(self.uid)} has a target_image and target_frames; allowed is one of them")
        if self.target_frames and self.frames is not None and len(self.target_frames) != self.frames:
            has = f"row {shown(self.uid)} has {len(self.target_frames)} target_frames"
            raise ValueError(f"{has} and asks for {self.frames} frames; it must have as many")
        for name in ("uid", "task", "prompt", "negative_prompt"):
            if len(text := getattr(self, name) or "") > LONGEST_TEXT:
                raise ValueError(f"row {shown(self.uid)}: {name} has {len(text)} characters; at most {LONGEST_TEXT} are read")
        if self.scores is not None:
            try:
                check_scores(self.scores)
            except ValueError as error:
                raise ValueError(f"row {shown(self.uid)}: {error}") from error


def check_scores(scores: Sequence[tuple[str, float]]) -> None:
    """Refuse scores of a row that are none.

    Raises:
        ValueError: if one is outside [0, 1], a route comes twice, or they don't sum to 1.
    """
    for route, score in scores:
        if not 0 <= score <= 1:  # false for nan, too
            raise ValueError(f"scores: that of {shown(route)} is {score}; allowed are 0 to 1")
    if len({route for route, _ in scores}) < len(scores):
        raise ValueError(f"scores name a route twice: {shown([route for route, _ in scores])}")
    if abs((total := sum(score for _, score in scores)) - 1) > _SUM_TOLERANCE:
        raise ValueError(f"scores sum to {total:g}; they must sum to 1")


def source_fields(image: bytes | None, several: Sequence[bytes], where: str) -> dict[str, Any]:
    """The fields of a row with this source image, or with these.

    Raises:
        ValueError: if it has both.
    """
    if not several:
        return {"source_image": image}
    if image is not None:
        raise ValueError(f"{where} has a source_image and source_images; allowed is one of them")
    return {"source_image": several[0], "more_sources": tuple(several[1:])}


def target_of(row: Row, frames: int) -> tuple[bytes, ...]:
    """The encoded frames of a row's target, one of an image.

    Args:
        row: has a target.
        frames: that it asks for, by itself or by its family.

    Raises:
        ValueError: for a row without a target, or with one of other frames; names it.
    """
    if not row.targets:
        raise ValueError(f"row {shown(row.uid)} has no target_image" + (" and no target_frames" if frames > 1 else ""))
    if len(row.targets) != frames:
        has = f"row {shown(row.uid)} has a target of {len(row.targets)} frame{'s' if len(row.targets) > 1 else ''}"
        raise ValueError(f"{has} and asks for {frames}; it must have as many")
    return row.targets
