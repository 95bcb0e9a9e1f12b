"""What a run needs, before anything is loaded: `python -m pipelines.plan CONFIG.yaml [--gpu NAME] [key=value ...]`.

Prints the memory of every kind of process against a GPU's, what is downloaded, what travels and what is computed for each
sample, and what to change where something doesn't fit. Then how fast the run can be, what limits it, and how many workers and
replicas keep the learner busy: estimated from the operations of every part and a share of the GPU's peak, or with `--measure`
from the time that the parts take on this machine, and then it also says how many operations per second each reaches. Without
it no weights are read, only configurations of models; of a model on the hub it downloads these small files alone.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from pipelines.config.errors import ConfigError, complain


def main(arguments: Sequence[str]) -> int:
    """Parse, measure, print. Returns the exit status: 1 if something doesn't fit, 2 for what is wrong with the input."""
    options = _parser().parse_args(arguments)
    # here, so that --help needs no torch
    from pipelines.config.load import load_config
    from pipelines.parts.needs import Needs
    from pipelines.reports import needs as memory
    from pipelines.reports import pace as speed
    from pipelines.run.planned_pace import estimated, measured

    gpu = [f"learner.gpu={options.gpu}"] if options.gpu else []
    try:
        if not 0 < options.share <= 1:
            raise ConfigError(f"--share {options.share:g}: allowed are numbers above 0, up to 1")
        config = load_config(options.config, [*options.overrides, *gpu])
        needs = Needs.of(config)
        if options.measure is None:
            pace, source = estimated(config, needs, options.share)
        else:
            pace, source = measured(config, needs, options.measure)
    except ConfigError as error:
        complain(error)
        return 2
    console = Console(width=None if sys.stdout.isatty() else 128)
    said = [memory.table(needs), *memory.lines(needs)]
    if not needs.too_large:  # else what would mend it stands last
        said += [source] if pace is None else [speed.table(pace, source), *speed.lines(pace)]
    for one in said:
        console.print(one, highlight=False, soft_wrap=isinstance(one, str), markup=False)
    return 1 if needs.too_large else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipelines.plan", description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace those of the file")
    parser.add_argument(
        "--gpu", help="of every process: h100, h200, a100-80, a100-40, l40s, or NAME=GB; learner.gpu by default"
    )
    parser.add_argument(
        "--share", type=float, default=0.25, help="of the GPU's peak that a run reaches, for the estimate; default 0.25"
    )
    parser.add_argument(
        "--measure", type=int, metavar="STEPS", help="time the parts of so many steps here, with the run's own models and data"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
