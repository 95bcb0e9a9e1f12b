"""Images from a base, an expert or a student, or clips, each an animated GIF.

python -m pipelines.generate --model DIR --family NAME [--adapter DIR] --prompts FILE --out DIR
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.config.base import MOST_STEPS
from pipelines.config.errors import complain

if TYPE_CHECKING:
    from pipelines.data.export import Plate

MANIFEST = "manifest.jsonl"
DTYPES = ("float32", "bfloat16", "float16")
MOST_GUIDANCE = 1000.0  # far beyond any use; a scale near the end of the numbers makes none
MOST_IMAGES = 1000  # of a prompt; its numbers of noise start at a multiple of this, so more images leave the earlier ones


def main(arguments: Sequence[str]) -> int:
    """Parse, generate, say where. Returns the exit status: 2 for what is wrong with the input."""
    options = _parser().parse_args(arguments)
    try:
        count = _generate(options)
    except (OSError, ValueError) as error:  # the first for a folder that cannot be written
        complain(error)
        return 2
    print(f"{options.out}: {count} images, listed in {MANIFEST}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipelines.generate", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder of the base, or a full student's checkpoint")
    parser.add_argument("--family", required=True, help="kind of model")
    parser.add_argument(
        "--adapter", type=Path, help="a checkpoint of a run, its ema/ folder, or any adapter; default: the base"
    )
    parser.add_argument("--prompts", type=Path, required=True, help=".txt, .json, .jsonl, .csv or .parquet; docs/data.md")
    parser.add_argument("--out", type=Path, required=True, help="new folder")
    parser.add_argument("--layout", default="plain", help="plain for people; geneval or gedit for their public scorers")
    parser.add_argument("--images", type=int, default=1, help="images of each prompt; GenEval takes 4")
    parser.add_argument("--limit", type=int, help="only the first prompts")
    parser.add_argument("--seed", type=int, default=0, help="decides the noise of every image")
    parser.add_argument("--steps", type=int, default=28, help="Euler steps from noise to clean")
    parser.add_argument("--guidance", type=float, help="scale as the model's own pipeline counts it; default: none")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="in which networks compute")
    return parser


def _generate(options: argparse.Namespace) -> int:
    """Write the folder, an image at a time; returns the number of images. All prompts are read before a model is loaded."""
    # here, so that --help doesn't need torch
    import torch

    from fields.data.images import encode
    from fields.numerics import Numerics
    from pipelines.parts.consolidation import consolidate
    from pipelines.parts.sampler import Sampler

    _check(options)
    consolidate(options.model)
    if not sum(1 for _ in _plates(options)):
        raise ValueError(f"{options.prompts} has no prompts")
    Numerics(threads=torch.get_num_threads()).settle()
    sampler = Sampler(
        options.family, options.model, options.adapter, options.steps, options.guidance, options.seed, options.dtype
    )
    options.out.mkdir(parents=True, exist_ok=True)
    count = 0
    with (options.out / MANIFEST).open("w", encoding="utf-8") as manifest:
        for number, plate in enumerate(_plates(options)):
            numbers = range(number * MOST_IMAGES, number * MOST_IMAGES + options.images)
            images = sampler.images(plate.row, numbers)
            _write_beside(options.out, plate)
            for n, path, image in zip(numbers, plate.images, images, strict=True):
                path = path if image.ndim == 3 else path.with_suffix(".gif")
                _write(options.out / path, encode(image))
                manifest.write(json.dumps(_entry(options, plate, n, path)) + "\n")
                manifest.flush()
                count += 1
    return count


def _check(options: argparse.Namespace) -> None:
    from pipelines.data.export import LAYOUTS

    if options.layout not in LAYOUTS:
        raise ValueError(f"--layout is {options.layout}; allowed: {', '.join(LAYOUTS)}")
    if not 1 <= options.images <= MOST_IMAGES:
        raise ValueError(f"--images is {options.images}; it must be from 1 to {MOST_IMAGES}")
    if options.limit is not None and options.limit < 1:
        raise ValueError(f"--limit is {options.limit}; it must be at least 1")
    if not 1 <= options.steps <= MOST_STEPS:
        raise ValueError(f"--steps is {options.steps}; it must be at least 1 and at most {MOST_STEPS}")
    if options.guidance is not None and not 0 < options.guidance <= MOST_GUIDANCE:
        raise ValueError(f"--guidance is {options.guidance}; it must be above 0 and finite, at most {MOST_GUIDANCE:g}")
    if not 0 <= options.seed < 2**64:
        raise ValueError(f"--seed is {options.seed}; it must be from 0 to 2^64 - 1")
    if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
        raise ValueError(f"--out: {options.out} is not empty; name a new folder")


def _plates(options: argparse.Namespace) -> "Iterator[Plate]":
    from pipelines.data.export import LAYOUTS

    return islice(LAYOUTS[options.layout](options.prompts, options.images), options.limit)


def _write_beside(folder: Path, plate: "Plate") -> None:
    """Write what the scorer reads beside the images."""
    from fields.data.images import decode_image, encode_png

    if plate.metadata is not None:
        path, text = plate.metadata
        _write(folder / path, text.encode())
    if plate.source is not None and plate.row.source_image is not None:
        _write(folder / plate.source, encode_png(decode_image(plate.row.source_image, plate.row.uid)))


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _entry(options: argparse.Namespace, plate: "Plate", number: int, path: Path) -> dict[str, Any]:
    """An image's row of the manifest: what it takes to make it again."""
    return {
        "file": path.as_posix(),
        "uid": plate.row.uid,
        "task": plate.row.task,
        "prompt": plate.row.prompt,
        "number": number,
        "seed": options.seed,
        "steps": options.steps,
        "guidance": options.guidance,
        "dtype": options.dtype,
        "family": options.family,
        "model": str(options.model),
        "adapter": str(options.adapter) if options.adapter else None,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
