"""Where generated images go: a plain folder, or the folders that the public scorers of two benchmarks read.

A layout reads the prompts in the benchmark's own file, so that what its scorer wants to know about a prompt comes from there.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fields.data.rows import Row
from fields.shown import shown
from pipelines.data.prompts import read_prompts
from pipelines.data.shards import image_bytes, shard_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Plate:
    """One prompt's images.

    Attributes:
        row: what is generated.
        images: the files of its images; this and the other paths are relative to the output folder.
        metadata: a text that the scorer reads, with its file.
        source: the file of the row's source image, if the scorer reads it.
    """

    row: Row
    images: tuple[Path, ...]
    metadata: tuple[Path, str] | None = None
    source: Path | None = None


def plain(prompts: Path, count: int) -> Iterator[Plate]:
    """`00000-0.png`: prompt and image by number; prompts are rows of any kind of file."""
    for number, row in enumerate(read_prompts(prompts)):
        yield Plate(row=row, images=tuple(Path(f"{number:05d}-{k}.png") for k in range(count)))


def geneval(prompts: Path, count: int) -> Iterator[Plate]:
    """`00000/samples/0000.png` beside `00000/metadata.jsonl`, as GenEval's `evaluate_images.py` reads them (arXiv 2310.11513).

    Prompts are GenEval's `evaluation_metadata.jsonl`: an object a line, its `prompt` is generated, all of it is passed on.

    Raises:
        ValueError: names the line that is no such object.
    """
    if not prompts.is_file():
        raise ValueError(f"no such file: {prompts}")
    lines = [line for line in prompts.read_text(encoding="utf-8").splitlines() if line.strip()]
    for number, line in enumerate(lines):
        row = _geneval_row(line, f"{prompts} entry {number + 1}")
        folder = Path(f"{number:05d}")
        images = tuple(folder / "samples" / f"{k:04d}.png" for k in range(count))
        yield Plate(row=row, images=images, metadata=(folder / "metadata.jsonl", line.strip() + "\n"))


def _geneval_row(line: str, where: str) -> Row:
    try:
        metadata = json.loads(line)
        tag, prompt = metadata["tag"], metadata["prompt"]
    except (KeyError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"{where} is no GenEval metadata: it must be an object with `tag`, `include` and `prompt`") from error
    return Row(where.rpartition(" ")[2], str(tag), str(prompt), frames=1)


_GEDIT_NAMES = ("task_type", "instruction_language", "key")  # become names of folders and files
_LONGEST_NAME = 200  # bytes; file systems take 255, and the source image's file adds some
_GEDIT_COLUMNS = ("key", "task_type", "instruction", "instruction_language", "input_image")


def gedit(prompts: Path, count: int) -> Iterator[Plate]:
    """`fullset/TASK/LANGUAGE/KEY.png` beside its source `KEY_SRCIMG.png`, as the scorer of GEdit-Bench reads them.

    Prompts are GEdit-Bench's Parquet file, or the folder of them (arXiv 2504.17761); every language in it is generated.

    Raises:
        ValueError: for more than one image per prompt; names the missing column, or the row whose value cannot be.
    """
    if count != 1:
        raise ValueError(f"--images is {count}; the layout of GEdit-Bench has one image per prompt")
    for where, values in shard_rows(prompts, _GEDIT_COLUMNS):
        task, language, key = (_file_name(values[name], f"{where}: {name}") for name in _GEDIT_NAMES)
        if not isinstance(instruction := values["instruction"], str):
            raise ValueError(f"{where}: instruction is {shown(instruction)}; it must be text")
        source = image_bytes(values["input_image"], f"{where}: input_image")
        folder = Path("fullset") / task / language
        yield Plate(
            row=Row(key, task, instruction, source, frames=1),
            images=(folder / f"{key}.png",),
            source=folder / f"{key}_SRCIMG.png",
        )


def _file_name(value: object, where: str) -> str:
    if not isinstance(value, str) or not value or value.startswith(".") or "/" in value or "\0" in value:
        raise ValueError(f"{where} is {shown(value)}; it becomes the name of a file and must be one")
    if len(value.encode()) > _LONGEST_NAME:
        raise ValueError(f"{where} is {shown(value)}; it becomes the name of a file and has more than {_LONGEST_NAME} bytes")
    return value


LAYOUTS: dict[str, Callable[[Path, int], Iterator[Plate]]] = {"plain": plain, "geneval": geneval, "gedit": gedit}
