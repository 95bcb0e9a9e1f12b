"""Where the experts disagree: `python -m pipelines.diagnose CONFIG.yaml [dotted.key=value ...] [--checkpoint DIR]`.

Rolls the student out (at its start, or from a checkpoint) and compares every expert with it and with one another, over t
and category, and at the rows whose scores leave open who answers them. Without a cluster. Writes `diagnose.html` and
`diagnose.json` into the run's folder: they tell where to query before GPU hours are spent.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pipelines.config.errors import ConfigError, complain


def main(arguments: Sequence[str]) -> int:
    """Parse, measure, write. Returns 2 for what is wrong with the input."""
    options = _parser().parse_intermixed_args(arguments)
    # here, so that --help needs no torch
    from pipelines.config.load import load_config
    from pipelines.data.scene import prepare_missing
    from pipelines.parts.check_files import checked_parts
    from pipelines.reports.ambiguity import ambiguities
    from pipelines.reports.compared_fields import ComparedFields
    from pipelines.reports.diagnosis import advice, measure, student_weights, write_diagnosis

    try:
        config = load_config(options.config, options.overrides)
        if options.samples < 1:
            raise ConfigError(f"--samples {options.samples}: allowed are whole numbers from 1")
        prepare_missing(config)
        parts = checked_parts(config)
        config.numerics.build().settle()
        weights = student_weights(parts, options.checkpoint)
    except ConfigError as error:
        complain(error)
        return 2
    fields = ComparedFields(parts, weights)
    measured, unclear = measure(fields, options.samples), ambiguities(fields, options.samples)
    config.folder.mkdir(parents=True, exist_ok=True)
    write_diagnosis(config, measured, unclear, options.checkpoint)
    for line in advice(config, measured, unclear):
        print(line)
    print(f"report: {config.folder / 'diagnose.html'}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipelines.diagnose", description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="dotted.key=value")
    parser.add_argument("--checkpoint", type=Path, help="of the student; default: its start")
    parser.add_argument("--samples", type=int, default=16, help="rows of each category")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
