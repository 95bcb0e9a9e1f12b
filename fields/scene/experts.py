"""Training and examining the scene world's base and experts."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fields.carriers import checksum
from fields.evaluation.base import Skills
from fields.field import Field
from fields.lora.adapter import Adapter, add_lora
from fields.lora.peft_files import read_adapter, write_adapter
from fields.method.rollout import clean
from fields.method.solver import Euler
from fields.method.time_grid import time_grid
from fields.scene.exam import Exam
from fields.scene.family import SceneFamily, save_transformer
from fields.scene.recipes import (
    ADAPTERS,
    BASE,
    CARD,
    FOLDER,
    LARGE,
    PLACE_AMPLITUDE,
    RECIPES,
    ROLLOUT_STEPS,
    SHAPE,
    SIZES,
    START,
    WEIGHTS,
)
from fields.scene.training import base_optimizers, train
from fields.scene.transformer import SceneTransformer
from fields.scene.widening import widened
from fields.tensors import load_into


def train_stage(name: str, output: Path, seed: int, threads: int) -> None:
    """Train one stage and write its folder with a card that says how it was made."""
    recipe = RECIPES[name]
    folder = output / FOLDER.get(name, name)
    torch.manual_seed(seed)
    began = time.monotonic()
    transformer, parameters, optimizers = _network(name, output, recipe.learning_rate, seed)
    average = train(transformer, optimizers, parameters, recipe, seed + 1, _Report(name, recipe.steps))
    if folder.name in ADAPTERS:
        write_adapter(folder, Adapter(SHAPE, average), torch.float16)
    else:
        transformer.load_state_dict(average, strict=False)
        save_transformer(transformer, folder, eight_bits=folder.name == LARGE)
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


def examine_expert(name: str, output: Path, exam: Exam) -> dict[str, Any]:
    """Add to a card what the base or expert can do; returns the card."""
    path = output / name / CARD
    card = json.loads(path.read_text())
    card["exam"] = {"samples": exam.samples, "rollout_steps": ROLLOUT_STEPS}
    card["skills"] = take_exam(exam, load_expert(name, output))
    path.write_text(json.dumps(card, indent=2) + "\n")
    return card


def _network(
    name: str, output: Path, learning_rate: float, seed: int
) -> tuple[SceneTransformer, dict[str, nn.Parameter], list[torch.optim.Optimizer]]:
    """The network that a stage starts from, what of it is trained, and by what."""
    folder = FOLDER.get(name, name)
    if folder in ADAPTERS:
        transformer = SceneFamily().load_transformer(output / BASE)
        parameters = add_lora(transformer, SHAPE, seed)
        if name in START:
            load_into(parameters, read_adapter(output / START[name]).tensors, START[name])
        return transformer, parameters, [_adam(parameters, learning_rate)]
    if name == LARGE:
        transformer = widened(SceneFamily().load_transformer(output / BASE), seed)
        transformer.cell_places.requires_grad_(True)
    elif name in FOLDER:
        transformer = SceneFamily().load_transformer(output / folder).requires_grad_(True)
    else:
        transformer = SceneTransformer(**SIZES.get(name, {}))
    if name in PLACE_AMPLITUDE:
        transformer.learn_places(PLACE_AMPLITUDE[name])
    parameters = {name: parameter for name, parameter in transformer.named_parameters() if parameter.requires_grad}
    # torch's Muon multiplies in bfloat16, which a CPU without it does at a sixtieth of float32's speed
    optimizers = base_optimizers(parameters, learning_rate) if folder == BASE else [_adam(parameters, learning_rate)]
    return transformer, parameters, optimizers


def _adam(parameters: Mapping[str, nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(list(parameters.values()), lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.0)


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


def load_expert(name: str, weights: Path = WEIGHTS) -> Field:
    """The shipped base or expert as a field."""
    family = SceneFamily()
    adapter = read_adapter(weights / name) if name in ADAPTERS else None
    network = family.load_transformer(weights / (BASE if name in ADAPTERS else name))
    return Field.build(name, family, {name: (network, adapter)})


def take_exam(exam: Exam, field: Field) -> Skills:
    """A field's exam, by its own ODE."""
    grid = time_grid(ROLLOUT_STEPS)
    answers = []
    for sheet in exam.sheets:
        condition = field.family.encode(sheet.rows)
        answers.append(exam.kept(field.family.decode(clean(field.velocity, sheet.noise, grid, condition, Euler()))))
    return exam.result(answers).skills
