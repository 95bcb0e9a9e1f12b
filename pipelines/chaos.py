"""Break a run on purpose: `python -m pipelines.chaos CONFIG.yaml [dotted.key=value ...] [--faults N] [--seed N] [--nodes]`.

The configuration is run twice on this machine, into the folders NAME-undisturbed and NAME-chaos: once by the plain loop in one
process, and once distributed and supervised, while its learner, rollout workers, experts, encoder and driver are killed or
frozen and its mirror goes away, at steps that the seed decides. With --nodes it runs on a Ray cluster of two nodes, and these
are lost, too. Prints each fault with how long the run stood still, and whether both students are the same to the last bit
and every sample was trained on once. Returns 1 if not.
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from rich.console import Console

from pipelines.config.errors import ConfigError, complain


def main(arguments: Sequence[str]) -> int:
    """Parse, run both, compare. Returns the exit status: 2 for what is wrong with the input."""
    options = _parser().parse_intermixed_args(arguments)
    from pipelines.config.load import load_config
    from pipelines.run.chaos import Runs, disturbed, fault_table, planned_faults, undisturbed
    from pipelines.run.chaos_nodes import Nodes

    console = Console(markup=False, highlight=False, soft_wrap=True)
    try:
        config = load_config(options.config, options.overrides)
        if not 1 <= options.faults <= config.run.steps:
            raise ConfigError(f"--faults {options.faults}: allowed are 1 to run.steps, which is {config.run.steps}")
        nodes = Nodes() if options.nodes else None
        runs = Runs(config, options.config, options.overrides, nodes)
        expected = undisturbed(runs)
        planned = planned_faults(options.seed, options.faults, config.run.steps, runs.possible)
        with nodes or nullcontext():
            faults = disturbed(runs, planned, console.print)
    except ConfigError as error:
        complain(error)
        return 2
    console.print(fault_table(faults, runs.possible))
    console.print(f"undisturbed: {expected}\nwith {len(faults)} faults: {runs.weights}\nevery sample once: {runs.all_once}")
    if len(faults) < options.faults:
        console.print(f"the run was over before the other {options.faults - len(faults)}")
    return 0 if runs.weights == expected and runs.all_once and len(faults) == options.faults else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipelines.chaos", description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="dotted.key=value")
    parser.add_argument("--faults", type=int, default=12, help="how many; default 12")
    parser.add_argument("--nodes", action="store_true", help="run on a cluster of two nodes, and lose these too")
    parser.add_argument("--seed", type=int, default=0, help="of the faults: what happens, and when")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
