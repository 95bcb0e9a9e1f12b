"""Supervised flow matching on freshly drawn scenes: how the base and the experts of the scene world are made."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fields.scene.grammar import PADDING, Task, draw_task, tokenize
from fields.scene.transformer import SceneTransformer
from fields.scene.world import render


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How one network is trained.

    Attributes:
        categories: category -> how often it is drawn; all with or all without a source image.
        steps: optimizer steps.
        batch_size: tasks of a step.
        learning_rate: at its highest: it rises over 100 steps and falls to 0 over the last 40 %.
        prompt_dropout: share of rows without prompt, which makes guidance possible.
        t_mean: mean of the logistic-normal t; above 0 trains more where a scene's layout is decided.
    """

    categories: Mapping[str, float]
    steps: int
    batch_size: int
    learning_rate: float
    prompt_dropout: float
    t_mean: float


def train(
    transformer: SceneTransformer,
    optimizers: Sequence[torch.optim.Optimizer],
    parameters: Mapping[str, nn.Parameter],
    recipe: Recipe,
    seed: int,
    report: Callable[[int, float], None],
) -> dict[str, Float[Tensor, "..."]]:
    """Train the parameters to the velocity eps - x_0 and return their moving average.

    torch's global generator draws noise and t; the caller seeds it.

    Args:
        transformer: holds the parameters.
        optimizers: over the parameters; their rates are scheduled here.
        parameters: what is trained, by name.
        recipe: what is drawn, how long.
        seed: of the tasks.
        report: called with the step and its loss.
    """
    rng = np.random.default_rng(seed)
    highest = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    average = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    names = list(recipe.categories)
    shares = np.array(list(recipe.categories.values())) / sum(recipe.categories.values())
    for step in range(recipe.steps):
        rate = min(1.0, (step + 1) / 100) * min(1.0, (1 - step / recipe.steps) / 0.4)
        for optimizer, rates in zip(optimizers, highest, strict=True):
            for group, top in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = top * rate
        tasks = [draw_task(str(rng.choice(names, p=shares)), rng) for _ in range(recipe.batch_size)]
        loss = _flow_matching_loss(transformer, tasks, recipe)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        decay = min(0.999, (step + 1) / (step + 10))
        for name, parameter in parameters.items():
            average[name].lerp_(parameter.detach(), 1 - decay)
        report(step, loss.item())
    return average


def _flow_matching_loss(transformer: SceneTransformer, tasks: Sequence[Task], recipe: Recipe) -> Tensor:
    """Mean || v(x_t, t, c) - (eps - x_0) ||^2 at logistic-normal t (arXiv 2403.03206)."""
    x_0 = _images([render(task.target) for task in tasks])
    source = _images([render(task.source) for task in tasks if task.source]) if tasks[0].source else None
    words = torch.from_numpy(np.stack([tokenize(task.prompt) for task in tasks]))
    words[torch.rand(len(tasks)) < recipe.prompt_dropout] = PADDING
    t = torch.sigmoid(torch.randn(len(tasks)) * 1.2 + recipe.t_mean)
    noise = torch.randn_like(x_0)
    wide = t[:, None, None, None]
    return (transformer((1 - wide) * x_0 + wide * noise, t, words, source) - (noise - x_0)).square().mean()


def _images(images: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(images)) * 2 - 1


def base_optimizers(parameters: Mapping[str, nn.Parameter], learning_rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for the rest: in one run each, ahead of AdamW alone at 1000 steps."""
    matrices, rest = [], []
    for name, parameter in parameters.items():
        is_matrix = name.startswith("blocks.") and parameter.ndim == 2 and "modulation" not in name
        (matrices if is_matrix else rest).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=learning_rate, weight_decay=0.01, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=1.5e-3, betas=(0.9, 0.99), weight_decay=0.0),
    ]
