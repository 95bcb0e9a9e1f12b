"""How each stage of the scene world's base and experts is trained."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fields.lora.adapter import LoraShape
from fields.scene.family import SceneFamily
from fields.scene.grammar import GLOBAL_EDIT, LOCAL_EDIT
from fields.scene.training import Recipe

WEIGHTS = Path("fields/scene/weights")


BASE, LARGE, SMALL = "base", "large", "small"


# Network -> what its constructor gets; others get nothing, and the large one is the base, widened.
SIZES = {SMALL: {"width": 64}}


PLACE_AMPLITUDE = {"practice": 0.5, "places": 2.0, "small_places": 2.0}  # stages that give every cell a new place


FOLDER = {
    "practice": BASE,
    "places": BASE,
    "counting": BASE,
    "small_places": SMALL,
    "local_practice": "local_edit",
    "global_practice": "global_edit",
}  # later stages -> what they continue


START = {
    "global_edit": "local_edit",
    "local_practice": "local_edit",
    "global_practice": "global_edit",
}  # LoRA stages that don't start afresh


ADAPTERS = ("local_edit", "global_edit")


NAMES = (BASE, *ADAPTERS, LARGE, SMALL)


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
    "large": Recipe(
        categories={"single": 0.3, "two": 1.5, "count": 3.0, "colour": 0.3, "position": 1.0, "attribution": 3.0},
        steps=2500,
        batch_size=64,
        learning_rate=1.0e-3,
        prompt_dropout=0.1,
        t_mean=0.8,
    ),
    "small": Recipe(
        categories={"single": 0.5, "two": 1.5, "count": 2.0, "colour": 0.5, "position": 0.5, "attribution": 2.0},
        steps=3500,
        batch_size=64,
        learning_rate=3e-3,
        prompt_dropout=0.1,
        t_mean=0.8,
    ),
    "small_places": Recipe(
        categories={"single": 0.3, "two": 1.0, "count": 2.0, "colour": 0.3, "position": 3.0, "attribution": 1.5},
        steps=2500,
        batch_size=64,
        learning_rate=2.0e-3,
        prompt_dropout=0.1,
        t_mean=0.8,
    ),
    "global_practice": _edit(("background", "style", "style", "style"), steps=1500, learning_rate=1.5e-3),
}
