"""summary.json, read back: what a finished run says of itself."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from pipelines.config.errors import ConfigError

SUMMARY = "summary.json"
Measures = dict[str, float]


class CategorySkills(BaseModel):
    """What everybody got for one category of the exam."""

    base: Measures
    experts: dict[str, Measures]
    before: Measures
    after: Measures


class Summary(BaseModel):
    """The part of a summary that others build on."""

    steps: int
    samples: int = 0
    weights_sha256: str = ""
    skills: dict[str, CategorySkills] = {}
    versions: dict[str, str] = {}


def read_summary(folder: Path) -> Summary | None:
    """The summary in a run's folder; None for a run that isn't finished.

    Raises:
        ConfigError: if it is damaged.
    """
    path = folder / SUMMARY
    if not path.is_file():
        return None
    try:
        return Summary.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first: Any = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{path} is damaged: {f'{key}: ' if key else ''}{first['msg']}") from error
