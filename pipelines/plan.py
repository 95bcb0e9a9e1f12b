"""What a run needs, before anything is loaded: `python -m pipelines.plan CONFIG.yaml [--gpu NAME] [key=value ...]`.

Prints the memory of every kind of process against a GPU's, what is downloaded, what travels and what is computed for each
sample, and what to change where something doesn't fit. Reads configurations of models, no weights; of a model on the hub it
downloads these small files alone.
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
    from pipelines.reports.needs import lines, table

    gpu = [f"learner.gpu={options.gpu}"] if options.gpu else []
    try:
        needs = Needs.of(load_config(options.config, [*options.overrides, *gpu]))
    except ConfigError as error:
        complain(error)
        return 2
    console = Console(width=None if sys.stdout.isatty() else 128)
    console.print(table(needs))
    for line in lines(needs):
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    return 1 if needs.too_large else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipelines.plan", description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace those of the file")
    parser.add_argument(
        "--gpu", help="of every process: h100, h200, a100-80, a100-40, l40s, or NAME=GB; learner.gpu by default"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
