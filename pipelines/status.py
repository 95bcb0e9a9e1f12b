"""One screen about a run: `python -m pipelines.status [RUN] [--watch]`."""

import argparse
import sys
import time
from collections.abc import Sequence

from rich.console import Console
from rich.live import Live

from pipelines.config.errors import ConfigError, complain
from pipelines.run_folder.find import RUNS, find_run

_REFRESH_S = 2.0


def main(arguments: Sequence[str]) -> int:
    """Parse, look, show. Returns the exit status: 2 for what is wrong with the input."""
    options = _parser().parse_args(arguments)
    console = Console(markup=False, highlight=False)
    try:
        folder = find_run(options.run)
        # here, so that --help needs neither torch nor Ray
        from pipelines.cluster.connect import join
        from pipelines.watch.look import look
        from pipelines.watch.screen import screen

        state, cluster = look(folder, reachable=False)
        ended = state.finished and state.config.run.services is None  # standing services outlive a run
        reachable = not ended and join(options.address, console.print, run=folder)
        if reachable:
            state, cluster = look(folder, reachable)
        elif not ended:
            console.print("no Ray cluster to join runs on this machine; this is what the run's files say")
        with Live(screen(state, cluster), console=console, auto_refresh=False, transient=False) as live:
            while options.watch and not state.finished:
                time.sleep(_REFRESH_S)
                state, cluster = look(folder, reachable)
                live.update(screen(state, cluster), refresh=True)
    except ConfigError as error:
        complain(error)
        return 2
    except KeyboardInterrupt:
        pass
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipelines.status", description=__doc__)
    parser.add_argument("run", nargs="?", help=f"run folder, or its name in {RUNS}; default: the one written to last")
    parser.add_argument("--watch", action="store_true", help="refresh until the run ends")
    parser.add_argument("--address", help="of the Ray cluster; default: RAY_ADDRESS, else one on this machine, else none")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
