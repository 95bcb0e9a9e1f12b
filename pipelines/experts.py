"""Train the scene world's base and experts: `python -m pipelines.experts [STAGE ...]`.

The base has four stages. In `base` its cells are nearly alike: it learns what things look like and how they go with words,
wherever they stand. `practice` and `places` continue with a trained place for every cell; only at the amplitude of the last
does a place stand out against the noise in its token. `counting` practises numbers, which come last. `local_edit` and
`global_edit` are LoRAs on top; the global one starts from the local one, which can read a source image already, and
`local_practice` and `global_practice` continue them over the final base. `large` is the base with channels twice as wide,
trained on; `small` and `small_places` make a network of a quarter of the base's weights.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console


def main(arguments: Sequence[str]) -> None:
    """Train what is named (default: all), write weights and cards, print the table of all that exist."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.experts", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="STAGE", help="what to train; default: all, in this order")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="torch threads; part of what makes the weights equal")
    parser.add_argument("--output", type=Path, help="folder of the weights; default: the shipped ones")
    parser.add_argument("--examine", action="store_true", help="train nothing; examine what is there and renew the cards")
    parser.add_argument("--samples", type=int, default=100, help="exam questions per category")
    options = parser.parse_args(arguments)
    # here, so that --help doesn't need torch
    from fields.numerics import Numerics
    from fields.scene.exam import Exam
    from fields.scene.experts import examine_expert, train_stage
    from fields.scene.recipes import CARD, NAMES, RECIPES, WEIGHTS
    from pipelines.reports.tables import skill_table

    for name in options.names:
        if name not in RECIPES:
            parser.error(f"{name!r} is no stage; the stages are {', '.join(RECIPES)}")
    output = options.output or WEIGHTS
    Numerics(threads=options.threads).settle()
    exam = Exam(options.samples, seed=1)
    for name in () if options.examine else options.names or RECIPES:
        train_stage(name, output, options.seed, options.threads)
    cards = {name: examine_expert(name, output, exam) for name in NAMES if (output / name / CARD).exists()}
    Console().print(
        skill_table("Experts of the scene world, exact", {name: card["skills"] for name, card in cards.items()}, "exact")
    )


if __name__ == "__main__":
    main(sys.argv[1:])
