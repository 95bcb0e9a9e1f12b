"""The exam of the scene world: fixed questions in every category, with fixed noise, marked by the checker."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float
from torch import Tensor

from fields.data.images import encode_png
from fields.data.rows import Row
from fields.evaluation.base import ExamResult, KeptAnswers
from fields.method.plan import Stream, generator, noise
from fields.scene.checker import Score, check
from fields.scene.grammar import ALL_ROUTE_CATEGORIES, CATEGORIES, TWO_SKILLS, Task, draw_task
from fields.scene.world import SIZE, render


@dataclass(frozen=True, slots=True)
class Question:
    """One question: its number, its task, and the row that a model is shown."""

    id: int
    task: Task
    row: Row


@dataclass(frozen=True, slots=True)
class Sheet:
    """Questions that are answered as one batch, all with or all without a source image, and their noise."""

    questions: tuple[Question, ...]
    noise: Float[Tensor, "questions 3 24 24"]

    @property
    def rows(self) -> list[Row]:
        return [question.row for question in self.questions]


def task_row(uid: str, task: Task) -> Row:
    """What a model, or a data set, sees of a task."""
    source = encode_png(render(task.source)) if task.source else None
    return Row(uid, task.category, task.prompt, source, encode_png(render(task.target)))


class Exam:
    """The same questions and the same noise for whoever takes it.

    Args:
        samples: questions per category.
        seed: of questions and noise; the exam doesn't share random numbers with training.
        two_skills: whether it also asks for two edits in one instruction.
    """

    def __init__(self, samples: int, seed: int, two_skills: bool = False):
        self.samples = samples
        self.seed = seed
        self.categories = (*CATEGORIES, TWO_SKILLS) if two_skills else CATEGORIES

    @property
    def routes(self) -> dict[str, tuple[str, ...]]:
        """Route -> its categories, of those that the exam asks about."""
        return {name: own for name, own in ALL_ROUTE_CATEGORIES.items() if own[0] in self.categories}

    @property
    def sheets(self) -> Sequence[Sheet]:
        """One per category."""
        return self._sheets

    @cached_property
    def _sheets(self) -> list[Sheet]:  # most who have an exam never look: a comparison plans hundreds of runs
        return [self._sheet(number, category) for number, category in enumerate(self.categories)]

    def _sheet(self, number: int, category: str) -> Sheet:
        first = number * 100_000  # more questions leave the earlier ones as they are
        ids = range(first, first + self.samples)
        tasks = [draw_task(category, generator(self.seed, Stream.QUESTION, n)) for n in ids]
        questions = tuple(Question(n, t, task_row(f"exam-{n}", t)) for n, t in zip(ids, tasks, strict=True))
        return Sheet(questions, noise(self.seed, ids, (3, SIZE, SIZE), Stream.QUESTION_NOISE))

    @property
    def questions(self) -> list[Question]:
        return [question for sheet in self.sheets for question in sheet.questions]

    def kept(self, answers: np.ndarray) -> KeptAnswers:
        """All of them, as they are: marks are given by every pixel, and a scene has few."""
        return KeptAnswers(list(answers))

    def result(self, answers: Sequence[KeptAnswers]) -> ExamResult:
        """Mark the answers to every sheet, in order: the share of exactly right answers and the mean grade by category."""
        scores: dict[str, list[Score]] = {}
        images = [image for own in answers for image in own.shown]
        for question, image in zip(self.questions, images, strict=True):
            scores.setdefault(question.task.category, []).append(check(question.task, image))
        skills = {
            category: {
                "exact": float(np.mean([score.passed for score in marks])),
                "graded": float(np.mean([score.graded for score in marks])),
            }
            for category, marks in scores.items()
        }
        return ExamResult(answers=[own.shown for own in answers], skills=skills)


def route_skill(skills: Mapping[str, Mapping[str, float]], route: str, measure: str = "graded") -> float:
    """The mean over the categories of one route."""
    return float(np.mean([skills[category][measure] for category in ALL_ROUTE_CATEGORIES[route]]))
