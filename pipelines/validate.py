"""Everything that can be wrong with a run, found before anything is deployed."""

from dataclasses import dataclass

from fields.dataset import Bucket, decode_image
from fields.families.base import Family
from fields.lora import add_lora, load_into, read_adapter
from pipelines import build
from pipelines.config import RunConfig
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
        _named(f"experts.{name}.operator", build.operator, family, expert.operator)
        if expert.adapter is not None:
            adapter = _named(f"experts.{name}.adapter", read_adapter, expert.adapter)
            transformer = family.skeleton(config.model.path)
            parameters = _named(f"experts.{name}.adapter", add_lora, transformer, adapter.shape, 0)
            _named(f"experts.{name}.adapter", load_into, parameters, adapter.tensors, str(expert.adapter))
    _named("student", _check_student, config, family)
    rows = {}
    for name, route in config.routes.items():
        bucket = _named(f"routes.{name}.data", Bucket, route.data)
        _named(f"routes.{name}.data", _check_rows, bucket, family)
        rows[name] = len(bucket)
    _named("routes", build.plan, config, rows)
    return rows


def _check_student(config: RunConfig, family: Family) -> None:
    parameters = add_lora(family.skeleton(config.model.path), build.student_shape(config), 0)
    if (start := build.start_tensors(config)) is not None:
        load_into(parameters, start, "the student's start")


def _check_rows(bucket: Bucket, family: Family) -> None:
    """Every row of a small file, evenly spread ones of a large file, as far as the family can tell without a network."""
    stride = -(-len(bucket) // _MOST_ROWS_CHECKED)
    with_source = bucket[0].source_image is not None
    for n in range(0, len(bucket), stride):
        row = bucket[n]
        if (row.source_image is not None) != with_source:
            raise ValueError(f"row {row.uid!r}: a bucket has a source image in every row or in none")
        if row.target_image is not None:
            decode_image(row.target_image, row.uid)
        family.check_row(row)


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


def demands(config: RunConfig) -> list[Demand]:
    """Everything that a run starts."""
    return [
        Demand("learner", 1, config.learner.num_cpus, config.learner.num_gpus),
        Demand("rollout", config.rollout.workers, config.rollout.num_cpus, config.rollout.num_gpus),
        Demand("encoder", config.encoder.replicas, config.encoder.num_cpus, config.encoder.num_gpus),
        *(Demand(f"experts.{n}", e.replicas, e.num_cpus, e.num_gpus) for n, e in config.experts.items()),
    ]


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
