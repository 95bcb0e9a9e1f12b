"""What a finished run becomes in compare.json."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from itertools import count
from typing import Any

from actors.journal import METRICS, SKILLS, rows
from fields.carriers import Weights
from fields.evaluation.base import Evaluation, Skills
from fields.scene.exam import Exam
from pipelines.comparison.jobs import Job, settings, weights_digest
from pipelines.comparison.store import Store
from pipelines.config.run import RunConfig
from pipelines.run_folder.time_to_skill import exams_taken


def result_of(config: RunConfig, weights: Weights, skills: Mapping[str, Skills]) -> dict[str, Any]:
    """A run's entry in compare.json, from its folder and what its student can do at each guidance scale."""
    steps = rows(config.folder / METRICS)
    on_the_way = [exam for exam in exams_taken(steps, rows(config.folder / SKILLS)) if exam.step < config.run.steps]
    return {
        "settings": settings(config),
        "weights_sha256": weights.checksum,
        "seconds": steps[-1]["seconds"] if steps else 0.0,
        "samples": sum(row["samples"] for row in steps),
        "loss": steps[-1]["loss"] if steps else None,
        "skills": skills,
        "curve": [asdict(exam) for exam in on_the_way],
    }


def judged_by(config: RunConfig, exam: Evaluation) -> str:
    """What decides the skills of base and experts."""
    assert isinstance(exam, Exam)
    asked = config.eval.model_dump_json(exclude={"every"})
    return f"{weights_digest(config)[:12]} {asked} {','.join(exam.categories)}"


class Results:
    """Takes results as they come.

    Args:
        store: which they go to.
        rerun: whether one that the store has is compared with the new one instead of being replaced.
        runs: that are to be done.
        say: tells whoever waits.
    """

    def __init__(self, store: Store, rerun: bool, runs: int, say: Callable[[str], None]):
        self._store = store
        self._rerun = rerun
        self._runs = runs
        self._say = say
        self._done = count(1)

    def take(self, job: Job, result: Mapping[str, Any]) -> str | None:
        """Put a result into the store, or compare it; what is to be said at the end of a job whose student differs."""
        name, before = f"{job.key} seed {job.config.run.seed}", self._store.get(job)
        if not self._rerun or before is None:
            self._store.put(job, dict(result))
            self._say(f"{next(self._done)}/{self._runs} {name}: {result['seconds']:.0f} s")
            return None
        if all(result[key] == before[key] for key in ("weights_sha256", "skills")):
            self._say(f"{name}: the same student, to the last bit")
            return None
        self._say(f"{name}: DIFFERENT")
        return f"{name}: another student than in {self._store.path}"
