"""Everything that can be wrong with a run, found before anything is deployed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from fields.dataset import Bucket, Row, decode_image
from fields.families.base import Family
from fields.lora import add_lora, load_into, read_adapter
from pipelines import build
from pipelines.columns import columns_wanted
from pipelines.config import Model, RunConfig
from pipelines.load import ConfigError

_MOST_ROWS_CHECKED = 20_000


def check_files(config: RunConfig) -> dict[str, int]:
    """Load what the run will load: base, adapters, student, data. Returns route -> rows of its bucket.

    Raises:
        ConfigError: names the key, the file and what is wrong.
    """
    family = _named("model", build.family, config)
    _named("model.path", family.skeleton, config.model.path)
    _named("model", build.grid(config), None)
    for name, expert in config.experts.items():
        if expert.adapter is not None:
            adapter = _named(f"experts.{name}.adapter", read_adapter, expert.adapter)
            transformer = family.skeleton(config.model.path)
            parameters = _named(f"experts.{name}.adapter", add_lora, transformer, adapter.shape, 0)
            _named(f"experts.{name}.adapter", load_into, parameters, adapter.tensors, str(expert.adapter))
    _named("student", _check_student, config, family)
    rows = {}
    for name, route in config.routes.items():
        wanted = tuple(columns_wanted(config, name).items())
        rows[name] = _named(f"routes.{name}.data", _checked_rows, route.data, config.model, wanted)
    _named("routes", build.plan, config, rows)
    if config.eval.every:
        _named("eval.metrics", build.evaluation, config)
    return rows


def _check_student(config: RunConfig, family: Family) -> None:
    parameters = add_lora(family.skeleton(config.model.path), build.student_shape(config), 0)
    if (start := build.start_tensors(config)) is not None:
        load_into(parameters, start, "the student's start")


@cache
def _checked_rows(path: Path, model: Model, wanted: tuple[tuple[str, str], ...]) -> int:
    """The number of a file's rows; every row of a small file is checked, evenly spread ones of a large file, as far as the
    family can tell without a network. A process checks a file once."""
    bucket, family = Bucket(path), build.family_of(model)
    stride = -(-len(bucket) // _MOST_ROWS_CHECKED)
    with_source = bucket[0].source_image is not None
    for n in range(0, len(bucket), stride):
        row = bucket[n]
        if (row.source_image is not None) != with_source:
            raise ValueError(f"{bucket.path} row {n} ({row.uid!r}): a bucket has a source image in every row or in none")
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
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from error


@dataclass(frozen=True, slots=True)
class Demand:
    """What one kind of process asks of the cluster."""

    who: str
    count: int
    num_cpus: float
    num_gpus: float
    node_labels: Mapping[str, str] = field(default_factory=dict)


def demands(config: RunConfig) -> list[Demand]:
    """Everything that a run starts: the learner, the rollout workers, then the services."""
    parts = [
        ("learner", 1, config.learner),
        ("rollout", config.rollout.workers, config.rollout),
        ("encoder", config.encoder.replicas, config.encoder),
        *((f"experts.{name}", expert.replicas, expert) for name, expert in config.experts.items()),
    ]
    return [Demand(who, count, part.num_cpus, part.num_gpus, part.node_labels) for who, count, part in parts]


def check_resources(config: RunConfig, cpus: float, gpus: float, cluster: str) -> None:
    """Compare what the run asks for with what the cluster has.

    Raises:
        ConfigError: says what is missing and who asks for how much.
    """
    asked = demands(config)
    for kind, available in (("num_gpus", gpus), ("num_cpus", cpus)):
        total = sum(demand.count * getattr(demand, kind) for demand in asked)
        if total > available + 1e-9:
            parts = ", ".join(f"{d.who} {d.count} x {getattr(d, kind):g}" for d in asked if getattr(d, kind))
            raise ConfigError(f"{kind}: the run needs {total:g} ({parts}); {cluster} has {available:g}")
