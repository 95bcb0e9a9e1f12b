"""The student and every expert in one process, asked about the same rows."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from fields.carriers import Condition, Weights
from fields.data.rows import Row
from fields.evaluation.disagreement import Disagreement, disagreements
from fields.families.base import Family
from fields.method.plan import Stream, noise
from fields.method.solver import Velocity
from pipelines.config.own_models import other_models
from pipelines.parts.asked import columns_of_expert
from pipelines.parts.run_parts import RunParts

Pairs = dict[tuple[str, str], list[Disagreement]]


class ComparedFields:
    """The fields of a run, loaded.

    Args:
        parts: of the run.
        weights: of the student; None is the base.
    """

    def __init__(self, parts: RunParts, weights: Weights | None):
        self.parts = parts
        self.family = parts.encoder_family()
        self._others = {model: parts.encoder_family(model) for model in other_models(parts.config)}
        policy = parts.policy()
        policy.load(weights)
        self._student = _on(policy.device, policy.velocity)
        self._fields = {name: parts.field(name) for name in parts.config.experts}
        self._wanted = {name: columns_of_expert(parts, name) for name in parts.config.experts}
        self._reads = {name: set(models) for name, models in parts.experts.reads.items()}

    def compare(self, rows: Sequence[Row], first_id: int, experts: Collection[str] | None = None) -> Pairs:
        """Pair of fields -> disagreement at each query point. An expert whose operator wants what the rows lack (a source
        image, a negative prompt), or whose own model doesn't take them, is left out.

        Args:
            rows: of one size, with the same columns.
            first_id: of the first row's noise; the others follow.
            experts: that are asked; None asks all.
        """
        size = self.family.size(rows[0])
        readers = {model: other for model, other in self._others.items() if _takes(other, rows)}
        others = {model: _encoded(other, rows) for model, other in readers.items()}
        asked = {
            name: _on(field.device, field.velocity)
            for name, field in self._fields.items()
            if (experts is None or name in experts)
            and all(getattr(rows[0], column) is not None for column in self._wanted[name])
            and self._reads[name] <= readers.keys()
        }
        ids = range(first_id, first_id + len(rows))
        x_T = noise(self.parts.config.run.seed, ids, self.family.latent_shape(size), Stream.QUESTION_NOISE)
        condition = _encoded(self.family, rows).with_others(others)
        return disagreements(self._student, asked, x_T, self.parts.grid(size), condition)


def _takes(family: Family, rows: Sequence[Row]) -> bool:
    try:
        for row in rows:
            family.check_row(row)
    except ValueError:
        return False
    return True


def _encoded(family: Family, rows: Sequence[Row]) -> Condition:
    return Condition.concatenate([family.encode([row]) for row in rows])


def _on(device: torch.device, velocity: Velocity) -> Velocity:
    """A field that is asked, and answers, on the CPU: student and experts may be on different devices."""

    def asked(x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return velocity(x_t.to(device), t.to(device), condition.to(device)).cpu()

    return asked
