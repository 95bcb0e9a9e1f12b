"""Whether a long run holds ever more: `python -m pipelines.soak CONFIG.yaml [dotted.key=value ...]`.

The configuration is run on this machine, from its beginning, and the memory, open files and threads of its processes are
measured every five seconds. Prints what each party held in the second quarter and in the last, writes soak.html and soak.json
into the run's folder, and returns 1 if something grew.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipelines.config.errors import ConfigError, complain


def main(arguments: Sequence[str]) -> int:
    """Parse, run, measure. Returns the exit status: 2 for what is wrong with the input."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.soak", description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="dotted.key=value")
    options = parser.parse_args(arguments)
    from pipelines.config.load import load_config
    from pipelines.run.soak import growths, soak, write_soak

    console = Console(markup=False, highlight=False, soft_wrap=True)
    try:
        config = load_config(options.config, options.overrides)
        status, measured = soak(config, options.config, options.overrides)
        if status != 0:
            raise ConfigError(f"the run ended with status {status}")
    except ConfigError as error:
        complain(error)
        return 2
    found = growths(measured, config.run.steps)
    table = Table(title="What is held in the second quarter of the run and in the last")
    for column in ("party", "measure", "second", "last", "grew"):
        table.add_column(column, justify="left" if column in ("party", "measure") else "right")
    for growth in found:
        row = growth.party, growth.measure, f"{growth.before:.0f}", f"{growth.after:.0f}", "no" if growth.flat else "yes"
        table.add_row(*row)
    console.print(table)
    console.print(f"plot: {write_soak(config.folder, config.run.name, measured)}")
    return 0 if found and all(growth.flat for growth in found) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
