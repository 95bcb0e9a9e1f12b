"""A finished student, ready to be loaded elsewhere: python -m pipelines.export RUN --to FOLDER|hub:OWNER/NAME

Writes what diffusers and PEFT load (an adapter, or the model folder of a full student; the moving average, which is what the
run evaluated), its report, and a model card with its experts, data, skills and recipe. `hub:` uploads the same to the Hugging
Face Hub, with the token that `hf auth login` or HF_TOKEN gives.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial

from rich.console import Console

from pipelines.config.errors import ConfigError, complain


def main(arguments: Sequence[str]) -> int:
    """Parse, write, say where. Returns the exit status: 2 for what is wrong with the input."""
    options = _parser().parse_args(arguments)
    from pipelines.run.export import export  # here, so that --help needs no torch
    from pipelines.run_folder.find import find_run

    say = partial(Console(markup=False).print, highlight=False, soft_wrap=True)
    try:
        place = export(find_run(options.run), options.to, options.licence, options.private)
    except ConfigError as error:
        complain(error)
        return 2
    if options.licence is None:
        say("warning: the card names no licence; --licence gives one")
    say(f"exported to {place}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipelines.export", description=__doc__)
    parser.add_argument("run", help="name of a finished run below runs/, or its folder")
    parser.add_argument(
        "--to", required=True, metavar="FOLDER|hub:OWNER/NAME", help="a folder that doesn't exist, or a model of the hub"
    )
    parser.add_argument("--licence", help="identifier of the student's licence, such as apache-2.0")
    parser.add_argument("--private", action="store_true", help="of a model that is new on the hub")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
