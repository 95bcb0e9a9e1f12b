"""Write the data sets that runs read: `python -m pipelines.prepare {scene,import,folder,omniedit,score} ...`."""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from pipelines.config.errors import complain


def main(arguments: Sequence[str]) -> int:
    """Parse, write, say where. Returns the exit status: 2 for what is wrong with the input."""
    options = _parser().parse_args(arguments)
    from fields.data.row_groups import RowGroups  # here, as all that reads or writes data is imported: --help doesn't need it

    try:
        paths = options.write(options)
    except (OSError, ValueError) as error:  # the first for an output that cannot be written
        complain(error)
        return 2
    for path in paths:
        rows = RowGroups(path)
        empty = sum(not prompt.strip() for prompt in rows.column("prompt"))  # allowed, but seldom meant
        said = f", {empty} of them with an empty prompt" if empty else ""
        print(f"{path}: {len(rows)} rows{said}, {path.stat().st_size / 1e6:.1f} MB")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipelines.prepare", description=__doc__)
    commands = parser.add_subparsers(dest="what", required=True)

    scene = commands.add_parser("scene", help="prompts and source images of the scene world, one file a route")
    scene.add_argument("--output", type=Path, help="folder; default data/scene, where the shipped runs read them")
    scene.add_argument("--rows", type=int, help="rows of each file; default 4000")
    scene.set_defaults(write=_write_scene)

    table = _with_files(commands.add_parser("import", help="rows of a .json, .jsonl or .csv file; images are paths beside it"))
    table.set_defaults(write=_write_table)

    folder = _with_files(commands.add_parser("folder", help="a folder of images, each with its prompt in a .txt beside it"))
    folder.add_argument("--task", required=True, help="of every row")
    folder.add_argument("--role", choices=("source", "target"), default="target", help="source: the prompts edit the images")
    folder.set_defaults(write=_write_folder)

    omniedit = _with_files(
        commands.add_parser("omniedit", help="OmniEdit's files as OUTPUT.local_edit.parquet and OUTPUT.global_edit.parquet")
    )
    omniedit.add_argument(
        "--map", type=_mapping, action="append", default=[], metavar="TASK=ROUTE", help="add a task, or route it otherwise"
    )
    omniedit.add_argument("--min-score", type=float, help="leave out rows of a lower o_score")
    omniedit.set_defaults(write=_write_omniedit)

    score = commands.add_parser(
        "score", help="the rows of a file with scores: how much of each route's skill a prompt asks for"
    )
    score.add_argument("--input", type=Path, required=True)
    score.add_argument("--output", type=Path, required=True, help="Parquet file")
    score.add_argument("--clip", type=Path, required=True, metavar="FOLDER", help="a CLIP model as transformers saves it")
    score.add_argument(
        "--route", type=_description, action="append", default=[], metavar="ROUTE=TEXT", help="what the rows of a route ask for"
    )
    score.add_argument(
        "--temperature", type=float, default=0.01, help="of the softmax over routes; default 0.01, as CLIP's own"
    )
    score.set_defaults(write=_write_scores)
    return parser


def _with_files(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="Parquet file")
    parser.add_argument(
        "--bucket",
        type=_area,
        metavar="SIDE",
        help="bring every row that has a size to the nearest one of the area SIDE x SIDE; 1024 is what most models are for",
    )
    return parser


def _area(text: str) -> int:
    from fields.data.aspect import MULTIPLE
    from fields.data.columns import LONGEST_SIDE

    if not text.isdecimal() or not MULTIPLE <= int(text) <= LONGEST_SIDE:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of pixels from {MULTIPLE} to {LONGEST_SIDE}")
    return int(text) ** 2


def _mapping(text: str) -> tuple[str, str]:
    return _pair(text, r"[A-Za-z0-9][A-Za-z0-9_.-]*", "TASK=ROUTE, with a route of letters, digits and _ . -")


def _description(text: str) -> tuple[str, str]:
    return _pair(text, r"(?s).+", "ROUTE=TEXT")


def _pair(text: str, value: str, written: str) -> tuple[str, str]:
    """What stands before and after the first equals sign; the second fits a regular expression."""
    name, _, of = text.partition("=")
    if not name or not re.fullmatch(value, of):
        raise argparse.ArgumentTypeError(f"{text!r} is not written {written}")
    return name, of


def _write_scene(options: argparse.Namespace) -> list[Path]:
    from pipelines.data.scene import SCENE_DATA, SCENE_ROWS, prepare_scene

    return prepare_scene(options.output or SCENE_DATA, SCENE_ROWS if options.rows is None else options.rows)


def _write_table(options: argparse.Namespace) -> list[Path]:
    from pipelines.data.tables import import_table

    return import_table(options.input, options.output, options.bucket)


def _write_folder(options: argparse.Namespace) -> list[Path]:
    from pipelines.data.folder import import_folder

    return import_folder(options.input, options.output, options.task, options.role, options.bucket)


def _write_omniedit(options: argparse.Namespace) -> list[Path]:
    from pipelines.data.omniedit import import_omniedit

    buckets = import_omniedit(options.input, options.output, dict(options.map), options.min_score, options.bucket)
    if buckets.dropped:
        print(f"{buckets.dropped} rows are below a score of {options.min_score:g}")
    return buckets.paths


def _write_scores(options: argparse.Namespace) -> list[Path]:
    from fields.evaluation.clip import ClipScorer
    from pipelines.data.scores import write_scores

    routes = dict(options.route)
    if len(routes) < len(options.route):
        raise ValueError(f"--route names a route twice: {', '.join(name for name, _ in options.route)}")
    return write_scores(options.input, options.output, ClipScorer(options.clip, routes, options.temperature))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
