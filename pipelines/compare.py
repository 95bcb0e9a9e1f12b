"""Compare methods over seeds: `python -m pipelines.compare COMPARISON.yaml [--seeds N] [--rerun EXPERIMENT.VARIANT]`.

Every (variant, seed) is one distillation: on a shared local cluster, whose expert services stay up across runs, or with
`loop: reference` by the plain loop, in a process of its own. Results go to `compare.json` as they come; what stands there is
not run again. Then the tables and plots are written.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from pipelines.config.errors import ConfigError, complain


def main(arguments: Sequence[str]) -> int:
    """Parse, run what is missing, report. Returns 2 for bad input, 1 if a rerun gave another result."""
    options = _parser().parse_args(arguments)
    # here, so that --help needs neither torch nor Ray
    from pipelines.comparison.jobs import plan_jobs
    from pipelines.comparison.report import write_report
    from pipelines.comparison.results import Results
    from pipelines.comparison.store import Store
    from pipelines.config.comparison import Comparison
    from pipelines.config.load import load
    from pipelines.data.scene import prepare_missing
    from pipelines.parts.check_files import checked_parts

    console = Console(markup=False, highlight=False, soft_wrap=True)
    try:
        comparison = load(options.comparison, Comparison, {})
        if options.seeds is not None and not 1 <= options.seeds <= len(comparison.seeds):
            raise ConfigError(f"--seeds {options.seeds}: {options.comparison} has {len(comparison.seeds)}; allowed: 1 to that")
        jobs = plan_jobs(comparison, options.seeds, options.rerun)
        configs = {job.key: job.config for job in jobs}
        for config in configs.values():
            prepare_missing(config)
        parts = {key: checked_parts(config) for key, config in configs.items()}
        output = options.output or Path("runs") / f"compare-{comparison.name}"
        store = Store(output / "compare.json", comparison)
    except ConfigError as error:
        complain(error)
        return 2
    missing = jobs if options.rerun else [job for job in jobs if not store.has(job)]
    console.print(f"{len(jobs)} runs, {len(missing)} to do; results: {store.path}")
    differing = []
    if missing:
        results = Results(store, bool(options.rerun), len(missing), console.print)
        if comparison.loop == "reference":
            from pipelines.comparison import one_process_runner

            differing = one_process_runner.run_all(missing, parts, store, results, comparison.concurrency, console.print)
        else:
            from pipelines.comparison import runner

            differing = asyncio.run(runner.run_all(comparison, missing, parts, store, results, console.print))
    write_report(comparison, store.content, output, options.comparison)
    console.print(f"report: {output / 'compare.html'}, {output / 'compare.md'}")
    for line in differing:
        console.print(line)
    return 1 if differing else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipelines.compare", description=__doc__)
    parser.add_argument("comparison", type=Path)
    parser.add_argument("--output", type=Path, help="folder of compare.json and the reports; default runs/compare-NAME")
    parser.add_argument("--seeds", type=int, help="run only the first so many of the comparison's seeds")
    parser.add_argument("--rerun", metavar="EXPERIMENT.VARIANT", help="run this again and compare it with what stands there")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
