"""Traces of a run: every process that computes velocities writes one, and computes what it computes without."""

import gzip
import json

import pytest

from pipelines.config.errors import ConfigError
from pipelines.run.distill import distill
from runs import distributed, reference

SHORT = ("run.steps=12", "rollout.steps=4", "rollout.workers=2", "learner.batch_size=6", "learner.lag=1", "eval.every=0")


def operators(path) -> set[str]:
    return {event["name"] for event in json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]}


@pytest.mark.slow  # tests/fields/test_tracing.py traces a network
def test_every_process_that_computes_velocities_writes_a_trace(cluster, make_config, tmp_path):
    expected = reference(make_config(*SHORT, "run.name=reference"))
    outcome = distributed(make_config(*SHORT, f"run.profile={tmp_path / 'traces'}", "run.name=traced"))
    assert outcome is not None
    assert outcome.weights.checksum == expected.weights.checksum
    traces = {path.name.rsplit("-", 2)[0]: operators(path) for path in (tmp_path / "traces").iterdir()}
    experts = {f"expert-{name}" for name in ("text_to_image", "local_edit", "global_edit")}
    assert set(traces) - {"rollout-0", "rollout-1"} == {"learner", *experts}
    assert len(traces) >= 5, "at least one worker had rollouts enough"
    assert all("aten::addmm" in names or "aten::linear" in names for names in traces.values())
    assert any("Backward" in name for name in traces["learner"]), "what follows a forward is in it"
    assert not any("Backward" in name for name in traces["expert-local_edit"])


def test_traces_are_of_training_and_not_of_exams(make_config, tmp_path):
    with pytest.raises(ConfigError, match=r"run\.profile: traces .* with eval\.every: 4; allowed: none, or eval\.every: 0"):
        make_config(f"run.profile={tmp_path}", "eval.every=4")


def test_the_reference_loop_has_no_processes_to_trace(make_config, tmp_path):
    with pytest.raises(ConfigError, match=r"run\.profile: .* distributed run's processes; allowed with --reference: none"):
        distill(make_config(f"run.profile={tmp_path}"), reference=True)
