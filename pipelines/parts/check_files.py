"""Everything that can be wrong with a run, found before anything is deployed."""

from functools import cache
from pathlib import Path

from torch import nn

from actors.loggers import check_loggers
from fields.data.images import decode_image
from fields.data.rows import Bucket, Row
from fields.families.base import Family
from fields.lora.adapter import put_adapter
from fields.lora.formats import load_adapter
from fields.student import FullStudent, LoraStudent
from fields.tensors import differences, listed, load_into
from pipelines.config.errors import ConfigError
from pipelines.config.run import Model, RunConfig
from pipelines.config.student import StartAtRegression
from pipelines.parts import build
from pipelines.parts.required_columns import columns_wanted, expert_columns
from pipelines.parts.start_shape import require_modules
from pipelines.parts.student_start import merged_modules, start_tensors

_MOST_ROWS_CHECKED = 20_000


def check_files(config: RunConfig) -> dict[str, int]:
    """Load what the run will load: base, adapters, student, data. Returns route -> rows of its bucket.

    Raises:
        ConfigError: names the key, the file and what is wrong.
    """
    _named("run.loggers", check_loggers, config.run.loggers)
    family = check_models(config)
    rows = {}
    for name, route in config.routes.items():
        wanted = tuple(columns_wanted(config, name).items())
        rows[name] = _named(f"routes.{name}.data", _checked_rows, route.data, config.model, wanted)
    _named("student", _check_student, config, family)
    _named("routes", build.plan, config, rows)
    if config.eval.every:
        _check_evaluation(config)
    return rows


def _check_evaluation(config: RunConfig) -> None:
    """Evaluation asks every expert about every route's rows."""
    evaluation = _named("eval.metrics", build.evaluation, config)
    for expert in config.experts:
        for column in expert_columns(config, expert):
            if any(getattr(row, column) is None for sheet in evaluation.sheets for row in sheet.rows):
                raise ConfigError(
                    f"experts.{expert}.operator: it wants a {column} in every row, and evaluation asks about rows without one; "
                    "set eval.every=0"
                )


def check_models(config: RunConfig) -> Family:
    """Compare the files of the base, the experts' networks and their adapters with what they claim to be; of large models
    no values are read. Returns the model family.

    Raises:
        ConfigError: names the key, the file and what is wrong.
    """
    family = _named("model", build.family, config)
    base = _named("model.path", family.skeleton, config.model.path)
    _named("model", build.grid(config), None)
    for name, expert in config.experts.items():
        _named(f"experts.{name}.operator", build.expert_expression, config, name, family)
        transformer = _named(f"experts.{name}.checkpoint", _expert_network, family, expert.checkpoint, config.model.path, base)
        if expert.adapter is not None:
            adapter = _named(f"experts.{name}.adapter", load_adapter, expert.adapter, transformer, expert.ignore_keys)
            _named(f"experts.{name}.adapter", put_adapter, transformer, adapter, str(expert.adapter))
    return family


def _expert_network(family: Family, checkpoint: Path | None, base_path: Path, base: nn.Module) -> nn.Module:
    """A fresh network of an expert; a checkpoint of its own must be of the base's architecture."""
    transformer = family.skeleton(checkpoint or base_path)
    if wrong := differences(transformer.state_dict(), base.state_dict()):
        raise ValueError(f"{checkpoint}: {len(wrong)} tensors differ from the base's: {listed(wrong)}")
    return transformer


def _check_student(config: RunConfig, family: Family) -> None:
    student = build.student(config)
    load = family.load_transformer if isinstance(student, FullStudent) else family.skeleton
    transformer = load(config.model.path)  # a full student may start as a sum of weights
    if isinstance(config.student.start, StartAtRegression) and isinstance(student, LoraStudent):
        modules = merged_modules(config, transformer)  # the merge itself runs every expert
        require_modules("student.start", modules, student.shape, transformer)
        student.attach(transformer, seed=0)
        return
    start = start_tensors(config, student, family, transformer)
    parameters = student.attach(transformer, seed=0)
    if start is not None:
        load_into(parameters, start, "the student's start")


@cache
def _checked_rows(path: Path, model: Model, wanted: tuple[tuple[str, str], ...]) -> int:
    """The number of a file's rows; every row of a small file is checked, evenly spread ones of a large file, as far as the
    family can tell without a network. A process checks a file once."""
    bucket, family = Bucket(path), build.family_of(model)
    stride = -(-len(bucket) // _MOST_ROWS_CHECKED)
    first = bucket[0]
    for n in range(0, len(bucket), stride):
        row = bucket[n]
        for column, what in (("source_image", "source image"), ("negative_prompt", "negative prompt")):
            if (getattr(row, column) is None) != (getattr(first, column) is None):
                raise ValueError(f"{bucket.path} row {n} ({row.uid!r}): a bucket has a {what} in every row or in none")
        try:
            _check_row(row, family, wanted)
        except ValueError as error:  # names the row by its uid
            raise ValueError(f"{bucket.path} row {n}: {error}") from error
    return len(bucket)


def _check_row(row: Row, family: Family, wanted: tuple[tuple[str, str], ...]) -> None:
    for column, key in wanted:
        if getattr(row, column) is None:
            raise ValueError(f"row {row.uid!r} has no {column}, which {key} needs")
    with_target = "target_image" in dict(wanted)
    if row.target_image is not None and not with_target:
        decode_image(row.target_image, row.uid)
    family.check_row(row, with_target)


def _named(key: str, function, *arguments):
    """Call a part's own validation; what it refuses is reported under the configuration's key."""
    try:
        return function(*arguments)
    except ConfigError:  # names its key
        raise
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from error
