"""How fast a run is, as ratios in one session: `python -m pipelines.bench [CONFIG.yaml] [--steps N] [--repeats N]`.

Times the parts of a step in one process (rollout, expert, learner), then whole runs, interleaved: the reference loop and
the distributed run at lag 0, 1 and 2. Prints medians with their spread, the ratio to the reference loop run by run, and how
much of the limit is reached that the parts set: every core busy with them alone, or the one learner busy all the time.

With `--ranks 1 2 4 8` it times learners of so many ranks instead, with `--workers 1 2 4 8` so many rollout workers, each with
the same work in a step. The model's own time is simulated there (`--model-seconds`), so that this machine's cores don't limit
it; what processes send each other is real.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from pipelines.config.errors import ConfigError, complain


def main(arguments: Sequence[str]) -> int:
    """Parse, measure, print. Returns the exit status: 2 for what is wrong with the input."""
    options = _parser().parse_args(arguments)
    # here, so that --help needs neither torch nor Ray
    from pipelines.config.load import load_config
    from pipelines.data.scene import prepare_missing
    from pipelines.parts.check_files import checked_parts
    from pipelines.run.benchmark import WARM_STEPS, tables
    from pipelines.run.rank_scaling import rank_table
    from pipelines.run.worker_scaling import worker_table

    try:
        if options.steps <= WARM_STEPS or options.repeats < 1:
            raise ConfigError(
                f"--steps {options.steps} --repeats {options.repeats}: allowed are steps above {WARM_STEPS}, repeats above 0"
            )
        for name, sizes, table in (("ranks", options.ranks, rank_table), ("workers", options.workers, worker_table)):
            if not sizes:
                continue
            if min(sizes) < 1 or options.model_seconds <= 0:
                given = f"--{name} {' '.join(map(str, sizes))} --model-seconds {options.model_seconds:g}"
                raise ConfigError(f"{given}: allowed are numbers above 0")
            Console().print(table(sizes, options.model_seconds, options.steps - WARM_STEPS))
        if options.ranks or options.workers:
            return 0
        config = load_config(options.config, ["eval.every=0", f"run.steps={options.steps}"])
        prepare_missing(config)
        parts = checked_parts(config)
    except ConfigError as error:
        complain(error)
        return 2
    for table in tables(options.config, parts, options.steps, options.repeats):
        Console().print(table)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipelines.bench", description=__doc__)
    parser.add_argument("config", type=Path, nargs="?", default=Path("pipelines/configs/scene.yaml"))
    parser.add_argument("--steps", type=int, default=24, help="optimizer steps of a timed run")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ranks", type=int, nargs="+", help="numbers of ranks of the learner, to be timed instead")
    parser.add_argument("--workers", type=int, nargs="+", help="numbers of rollout workers, to be timed instead")
    parser.add_argument(
        "--model-seconds", type=float, default=4.0, help="that the model of each takes in a step, with --ranks and --workers"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
