"""Train the scene world's base and experts: `python -m pipelines.experts [STAGE ...]`.

The base has four stages. In `base` its cells are nearly alike: it learns what things look like and how they go with words,
wherever they stand. `practice` and `places` continue with a trained place for every cell; only at the amplitude of the last
does a place stand out against the noise in its token. `counting` practises numbers, which come last. `local_edit` and
`global_edit` are LoRAs on top; the global one starts from the local one, which can read a source image already, and
`local_practice` and `global_practice` continue them over the final base.
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from fields.carriers import checksum
from fields.evaluation import Skills
from fields.families.scene import SceneFamily, save_transformer
from fields.field import Field
from fields.lora import Adapter, LoraShape, add_lora, load_into
from fields.peft_files import read_adapter, write_adapter
from fields.rollout import clean
from fields.scene.exam import Exam
from fields.scene.grammar import GLOBAL_EDIT, LOCAL_EDIT
from fields.scene.training import Recipe, base_optimizers, train
from fields.scene.transformer import SceneTransformer
from fields.schedule import time_grid
from fields.solver import Euler
from pipelines.tables import skill_table

WEIGHTS = Path("fields/scene/weights")
BASE = "base"
PLACE_AMPLITUDE = {"practice": 0.5, "places": 2.0}  # stages of the base that give every cell a new place
FOLDER = {
    "practice": BASE,
    "places": BASE,
    "counting": BASE,
    "local_practice": "local_edit",
    "global_practice": "global_edit",
}  # later stages -> what they continue
START = {
    "global_edit": "local_edit",
    "local_practice": "local_edit",
    "global_practice": "global_edit",
}  # LoRA stages that don't start afresh
NAMES = (BASE, "local_edit", "global_edit")
CARD = "card.json"
ROLLOUT_STEPS = 16
SHAPE = LoraShape(rank=64, alpha=64.0, targets=SceneFamily.default_lora_targets)


def _edit(categories: Sequence[str], steps: int, learning_rate: float) -> Recipe:
    return Recipe(
        categories={name: float(count) for name, count in Counter(categories).items()},
        steps=steps,
        batch_size=48,
        learning_rate=learning_rate,
        prompt_dropout=0.0,
        t_mean=0.4,
    )


RECIPES = {
    "base": Recipe(
        categories={"single": 0.5, "two": 1.5, "count": 2.0, "colour": 0.5, "position": 0.5, "attribution": 2.0},
        steps=7000,
        batch_size=64,
        learning_rate=2e-3,
        prompt_dropout=0.1,
        t_mean=0.8,
    ),
    "practice": Recipe(
        categories={"single": 0.3, "two": 1.5, "count": 2.0, "colour": 0.3, "position": 2.0, "attribution": 1.5},
        steps=3000,
        batch_size=64,
        learning_rate=1.5e-3,
        prompt_dropout=0.1,
        t_mean=0.8,
    ),
    "places": Recipe(
        categories={"single": 0.3, "two": 1.0, "count": 2.0, "colour": 0.3, "position": 3.0, "attribution": 1.5},
        steps=1500,
        batch_size=64,
        learning_rate=1.0e-3,
        prompt_dropout=0.1,
        t_mean=0.8,
    ),
    "local_edit": _edit(LOCAL_EDIT, steps=1500, learning_rate=2e-3),
    "global_edit": _edit(GLOBAL_EDIT, steps=1300, learning_rate=2e-3),
    "counting": Recipe(
        categories={"single": 0.3, "two": 1.5, "count": 3.5, "colour": 0.3, "position": 0.7, "attribution": 3.0},
        steps=4500,
        batch_size=64,
        learning_rate=1.5e-3,
        prompt_dropout=0.1,
        t_mean=0.8,
    ),
    "local_practice": _edit(LOCAL_EDIT, steps=1200, learning_rate=1e-3),
    "global_practice": _edit(("background", "style", "style", "style"), steps=1500, learning_rate=1.5e-3),
}


def main(arguments: Sequence[str]) -> None:
    """Train what is named (default: all), write weights and cards, print the table of all that exist."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.experts", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*RECIPES, []], help="what to train; default: all, in this order")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="torch threads; part of what makes the weights equal")
    parser.add_argument("--output", type=Path, default=WEIGHTS, help="folder of the weights")
    parser.add_argument("--examine", action="store_true", help="train nothing; examine what is there and renew the cards")
    parser.add_argument("--samples", type=int, default=100, help="exam questions a category")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    exam = Exam(options.samples, seed=1)
    for name in () if options.examine else options.names or RECIPES:
        _train(name, options.output, options.seed, options.threads)
    cards = {name: _examine(name, options.output, exam) for name in NAMES if (options.output / name / CARD).exists()}
    Console().print(
        skill_table("Experts of the scene world, exact", {name: card["skills"] for name, card in cards.items()}, "exact")
    )


def _train(name: str, output: Path, seed: int, threads: int) -> None:
    """Train one stage and write its folder with a card that says how it was made."""
    recipe = RECIPES[name]
    folder = output / FOLDER.get(name, name)
    torch.manual_seed(seed)
    began = time.monotonic()
    transformer, parameters, optimizers = _network(name, output, recipe.learning_rate, seed)
    average = train(transformer, optimizers, parameters, recipe, seed + 1, _Report(name, recipe.steps))
    if folder.name == BASE:
        transformer.load_state_dict(average, strict=False)
        save_transformer(transformer, folder)
    else:
        write_adapter(folder, Adapter(SHAPE, average), torch.float16)
    stage = {
        "command": f"python -m pipelines.experts {name} --seed {seed} --threads {threads}",
        "seed": seed,
        "steps": recipe.steps,
        "batch_size": recipe.batch_size,
        "seconds": round(time.monotonic() - began),
        "torch": torch.__version__,
        "sha256": checksum(average),
    }
    earlier = json.loads((folder / CARD).read_text())["stages"] if name in FOLDER else []
    (folder / CARD).write_text(json.dumps({"stages": [*earlier, stage]}, indent=2) + "\n")


def _examine(name: str, output: Path, exam: Exam) -> dict[str, Any]:
    """Add to a card what the base or expert can do; returns the card."""
    path = output / name / CARD
    card = json.loads(path.read_text())
    card["exam"] = {"samples": exam.samples, "rollout_steps": ROLLOUT_STEPS}
    card["skills"] = take(exam, load(name, output))
    path.write_text(json.dumps(card, indent=2) + "\n")
    return card


def _network(
    name: str, output: Path, learning_rate: float, seed: int
) -> tuple[SceneTransformer, dict[str, nn.Parameter], list[torch.optim.Optimizer]]:
    """The network that a stage starts from, what of it is trained, and by what."""
    transformer = SceneTransformer() if name == BASE else SceneFamily().load_transformer(output / BASE)
    if FOLDER.get(name, name) != BASE:
        parameters = add_lora(transformer, SHAPE, seed)
        if name in START:
            load_into(parameters, read_adapter(output / START[name]).tensors, START[name])
        adam = torch.optim.AdamW(list(parameters.values()), lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
        return transformer, parameters, [adam]
    if name != BASE:
        transformer.requires_grad_(True)
    if name in PLACE_AMPLITUDE:
        transformer.learn_places(PLACE_AMPLITUDE[name])
    parameters = {name: parameter for name, parameter in transformer.named_parameters() if parameter.requires_grad}
    return transformer, parameters, base_optimizers(parameters, learning_rate)


class _Report:
    """Prints the mean loss now and then."""

    def __init__(self, name: str, steps: int):
        self._name, self._steps = name, steps
        self._losses: list[float] = []

    def __call__(self, step: int, loss: float) -> None:
        self._losses.append(loss)
        if (step + 1) % 200 == 0:
            mean = sum(self._losses) / len(self._losses)
            self._losses.clear()
            print(f"{self._name} step {step + 1}/{self._steps}: loss {mean:.4f}", flush=True)


def load(name: str, weights: Path = WEIGHTS) -> Field:
    """The shipped base or expert as a field."""
    family = SceneFamily()
    adapter = None if name == BASE else read_adapter(weights / name)
    return Field.build(name, family, {name: (family.load_transformer(weights / BASE), adapter)})


def take(exam: Exam, field: Field) -> Skills:
    """A field's exam, by its own ODE."""
    grid = time_grid(ROLLOUT_STEPS)
    answers = []
    for sheet in exam.sheets:
        condition = field.family.encode(sheet.rows)
        answers.append(field.family.decode(clean(field.velocity, sheet.noise, grid, condition, Euler())))
    return exam.result(answers).skills


if __name__ == "__main__":
    main(sys.argv[1:])
