"""The model folders of a checkpoint that ranks wrote as shards.

A run does this with its last checkpoint, and whatever loads a student as a model does it where it has to. The checkpoint
then holds the student, as every other checkpoint of a full student does, and its ema/ the moving average.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pipelines.config.errors import complain


def main(arguments: Sequence[str]) -> int:
    """Write what is missing, and say where. Returns the exit status: 2 for what is wrong with the input."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.consolidate", description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="folder of the checkpoint")
    path: Path = parser.parse_args(arguments).checkpoint
    try:
        written = _consolidate(path)
    except ValueError as error:
        complain(error)
        return 2
    print(f"{path} and {path / 'ema'}: model folders" if written else f"{path} lacks no model folders")
    return 0


def _consolidate(path: Path) -> bool:
    from pipelines.parts.consolidation import consolidate  # here, so that --help doesn't need torch

    if not path.is_dir():
        raise ValueError(f"{path}: no such folder")
    return consolidate(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
