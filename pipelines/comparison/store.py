"""compare.json: the results of a comparison."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fields.atomic import write_text
from pipelines.comparison.jobs import Job, job_key, settings
from pipelines.config.comparison import Comparison
from pipelines.config.errors import ConfigError
from pipelines.config.run import RunConfig
from pipelines.run_folder.outcome import package_versions

_FIRST = "distributed"  # what files are of that don't say it


class Store:
    """compare.json: every result by job key and seed.

    Args:
        path: of the file; read if it exists.
        comparison: whose results they are.

    Raises:
        ConfigError: if the file exists and is no such file, or its seconds are of another clock; names it.
    """

    def __init__(self, path: Path, comparison: Comparison):
        self.path = path
        empty = {"name": comparison.name, "loop": comparison.loop, "versions": package_versions(), "experts": {}, "runs": {}}
        self.content: dict[str, Any] = _read(path) if path.exists() else empty
        if (loop := self.content.get("loop", _FIRST)) != comparison.loop:
            raise ConfigError(
                f"loop: {comparison.loop}; {path} has results of {loop} runs, whose seconds are of another kind: "
                "take another --output, or move it away"
            )

    def has(self, job: Job) -> bool:
        """Whether there is a result of the job with all its guidance scales."""
        result = self.get(job)
        return result is not None and all(f"{scale:g}" in result["skills"] for scale in job.guidance)

    def get(self, job: Job) -> dict[str, Any] | None:
        """The job's result; None if it has none yet."""
        return results_of(self.content, job.config).get(job.config.run.seed)

    def put(self, job: Job, result: dict[str, Any]) -> None:
        """Add a result, and save."""
        self.content["runs"].setdefault(job.key, {})[str(job.config.run.seed)] = result
        self.save()

    def save(self) -> None:
        """Write the file, whole or not at all."""
        write_text(self.path, json.dumps(self.content, indent=1, sort_keys=True) + "\n")


def results_of(content: Mapping[str, Any], config: RunConfig) -> dict[int, dict[str, Any]]:
    """Seed -> the result of a run, whatever the seed of its configuration; not one of a time when a default was another.

    Args:
        content: of compare.json.
        config: of the run.
    """
    wanted = settings(config) | {"run": {}}  # what is left of this section is the seed
    found = content["runs"].get(job_key(config), {})
    return {int(seed): result for seed, result in found.items() if _agree(wanted, result["settings"])}


def _agree(now: Any, then: Any) -> bool:
    """Whether settings are equal where both have them."""
    if isinstance(now, Mapping) and isinstance(then, Mapping):
        return all(_agree(now[name], then[name]) for name in now.keys() & then.keys())
    return now == then


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        results = [result for by_seed in content["runs"].values() for result in by_seed.values()]
        if not all("skills" in found for found in results) or not {"versions", "experts"} <= content.keys():
            raise KeyError
    except (AttributeError, KeyError, OSError, RecursionError, TypeError, ValueError) as error:
        raise ConfigError(f"{path} holds no results of a comparison; move it away to begin anew") from error
    return content
