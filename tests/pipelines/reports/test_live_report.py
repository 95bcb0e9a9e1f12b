"""The report is there while the run goes on, written at each exam, and the run doesn't change by it."""

import json
from pathlib import Path

import pytest

from pipelines.config.run import RunConfig
from pipelines.run import driver, one_process
from runs import distributed, reference


@pytest.fixture
def reports(monkeypatch) -> list[tuple[int, float]]:
    """The step and the skill of each report that is written while the run goes on."""
    seen = []

    def recorded(write):
        def report(config: RunConfig, outcome) -> None:
            write(config, outcome)
            page = (config.folder / "report.html").read_text()
            assert f"{outcome.steps} of {config.run.steps} steps so far" in page
            assert outcome.weights.checksum[:12] in page
            seen.append((outcome.steps, outcome.results["after"].skills))

        return report

    for module in (driver, one_process):
        monkeypatch.setattr(module, "report_so_far", recorded(module.report_so_far))
    return seen


def skills(folder: Path) -> list[tuple[int, dict]]:
    lines = (folder / "skills.jsonl").read_text().splitlines()
    return [(row["step"], row["skills"]) for row in map(json.loads, lines)]


def test_each_exam_is_reported_while_the_loop_runs(make_config, reports):
    config = make_config("eval.every=3", "run.name=plain")
    reference(config)
    assert reports == [row for row in skills(config.folder) if 0 < row[0] < 8]
    assert [step for step, _ in reports] == [3, 6]


@pytest.mark.slow
def test_the_driver_reports_what_the_learner_examined(on_standing, reports):
    config = on_standing("eval.every=3", "run.name=reported", "rollout.workers=1")
    distributed(config)
    examined = [row for row in skills(config.folder) if 0 < row[0] < 8]
    assert reports
    assert all(report in examined for report in reports)  # a driver that looks late shows the newest alone
