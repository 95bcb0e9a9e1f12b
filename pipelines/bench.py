"""How fast a run is, as ratios in one session: `python -m pipelines.bench [CONFIG.yaml] [--steps N] [--repeats N]`.

Times the parts of a step in one process (rollout, expert, learner), then whole runs, interleaved: the reference loop and
the distributed run at lag 0, 1 and 2. Prints medians with their spread, the ratio to the reference loop run by run, and how
much of the limit is reached that the parts set: every core busy with them alone, or the one learner busy all the time.

With `--ranks 1 2 4 8` it times learners of so many ranks instead, with `--workers 1 2 4 8` so many rollout workers, with
`--replicas 1 2 4 8` so many replicas of an expert, each with the same work in a step. The model's own time is simulated there
(`--model-seconds`), so that this machine's cores don't limit it; what processes send each other is real. With `--schedules` it
times the schedule of the released DanceOPD trainer against this one, with `--mixed 2 4` batches of several routes against those
of one, for 2 and 4 routes of each, and with `--publication 10 100` what it takes to bring versions of so many MB to 1, 4 and 8
workers.

`--write FOLDER` does all of it, and puts the tables into FOLDER/performance.md and every number into FOLDER/performance.json.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from pipelines.config.errors import ConfigError, complain

if TYPE_CHECKING:
    from pipelines.reports.measurement import Measurement

_RANKS, _WORKERS, _REPLICAS, _VERSIONS, _RECEIVERS = (1, 2, 4, 8), (1, 2, 4, 8, 16), (1, 2, 4, 8), (10, 100, 400), (1, 4, 8)
_ROUTES = (1, 2, 4)
_PLACES = ("schedules", "mixed", "parts", "runs", "ranks", "workers", "replicas", "publication")


def main(arguments: Sequence[str]) -> int:
    """Parse, measure, print. Returns the exit status: 2 for what is wrong with the input."""
    options = _parser().parse_args(arguments)
    if options.write:
        options.ranks, options.workers, options.replicas = _RANKS, _WORKERS, _REPLICAS
        options.publication, options.schedules, options.mixed = _VERSIONS, True, _ROUTES
    # here, so that --help needs neither torch nor Ray
    from pipelines.reports.measurement import require_places, write

    try:
        _check(options)
        if options.write:
            require_places(_PLACES, options.write)
        measurements = []
        for measurement in _measured(options):
            Console().print(measurement.table())
            measurements.append(measurement)
    except ConfigError as error:
        complain(error)
        return 2
    if options.write:
        write(measurements, options.write)
    return 0


def _check(options: argparse.Namespace) -> None:
    from pipelines.run.benchmark import WARM_STEPS

    if options.steps <= WARM_STEPS or options.repeats < 1:
        raise ConfigError(
            f"--steps {options.steps} --repeats {options.repeats}: allowed are steps above {WARM_STEPS}, repeats above 0"
        )
    for name in ("ranks", "workers", "replicas", "publication", "mixed"):
        numbers = getattr(options, name)
        if numbers and (min(numbers) < 1 or options.model_seconds <= 0):
            given = f"--{name} {' '.join(map(str, numbers))} --model-seconds {options.model_seconds:g}"
            raise ConfigError(f"{given}: allowed are numbers above 0")


def _measured(options: argparse.Namespace) -> "Iterator[Measurement]":
    """What is asked for; what is timed in this process comes first, before a cluster disturbs it."""
    from pipelines.config.load import load_config
    from pipelines.data.scene import prepare_missing
    from pipelines.parts.check_files import checked_parts
    from pipelines.run import benchmark
    from pipelines.run.mixed_batches import mixed_batches
    from pipelines.run.publication import publication
    from pipelines.run.rank_scaling import rank_growth
    from pipelines.run.released_schedule import schedules
    from pipelines.run.replica_scaling import replica_growth
    from pipelines.run.worker_scaling import worker_growth

    chosen = (options.schedules, options.mixed, options.ranks, options.workers, options.replicas, options.publication)
    runs = options.write or not any(chosen)
    if runs or options.schedules or options.mixed:
        config = load_config(options.config, ["eval.every=0", f"run.steps={options.steps}"])
        prepare_missing(config)
        if options.schedules:
            yield schedules(options.config, options.steps - benchmark.WARM_STEPS)
        if options.mixed:
            yield mixed_batches(options.config, options.mixed, options.steps - benchmark.WARM_STEPS)
        if runs:
            yield from benchmark.measured(options.config, checked_parts(config), options.steps, options.repeats)
    steps = min(options.steps - benchmark.WARM_STEPS, 5)
    if options.ranks:
        yield rank_growth(options.ranks, options.model_seconds, steps)
    if options.workers:
        yield worker_growth(options.workers, options.model_seconds, steps)
    if options.replicas:
        yield replica_growth(options.replicas, options.model_seconds, steps)
    if options.publication:
        yield publication(options.publication, _RECEIVERS, options.repeats)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipelines.bench", description=__doc__)
    parser.add_argument("config", type=Path, nargs="?", default=Path("pipelines/configs/scene.yaml"))
    parser.add_argument("--steps", type=int, default=24, help="optimizer steps of a timed run")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ranks", type=int, nargs="+", help="numbers of ranks of the learner, to be timed instead")
    parser.add_argument("--workers", type=int, nargs="+", help="numbers of rollout workers, to be timed instead")
    parser.add_argument("--replicas", type=int, nargs="+", help="numbers of replicas of an expert, to be timed instead")
    parser.add_argument("--publication", type=int, nargs="+", metavar="MB", help="sizes of versions, to be timed instead")
    parser.add_argument("--mixed", type=int, nargs="+", metavar="ROUTES", help="routes made of each route, to be timed instead")
    parser.add_argument("--schedules", action="store_true", help="time the released trainer's against this one instead")
    parser.add_argument(
        "--model-seconds", type=float, default=4.0, help="that the model of each takes in a step, where it is simulated"
    )
    parser.add_argument(
        "--write", type=Path, metavar="FOLDER", help="all of it, into performance.md and performance.json there"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
