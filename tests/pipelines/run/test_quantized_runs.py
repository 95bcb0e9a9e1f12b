"""Runs with quantized weights: a distributed one equals the reference, and students learn what exact weights would teach."""

import pytest

from actors.journal import METRICS, rows
from runs import distributed, reference

SHORT = ("run.steps=4", "rollout.steps=6", "rollout.workers=1", "learner.batch_size=6", "learner.lag=1")
QUANTIZED = ("experts.local_edit.quantization=int8", "model.quantization=fp8", "rollout.merge=false")


@pytest.mark.slow
def test_a_run_with_quantized_expert_and_base_equals_the_reference(cluster, make_config):
    expected = reference(make_config(*SHORT, *QUANTIZED, "run.name=reference"))
    outcome = distributed(make_config(*SHORT, *QUANTIZED, "run.name=quantized"))
    assert outcome.weights.checksum == expected.weights.checksum
    exact = reference(make_config(*SHORT, "rollout.merge=false", "run.name=exact"))
    assert exact.weights.checksum != expected.weights.checksum, "other weights teach otherwise"
    runs = (make_config(f"run.name={name}").folder for name in ("quantized", "exact"))
    found, wanted = ([row["loss"] for row in rows(folder / METRICS)] for folder in runs)
    assert found == pytest.approx(wanted, rel=0.1)


def test_a_student_that_starts_as_its_quantized_expert_learns_nothing_over_the_same_weights(make_config):
    alone = (*SHORT, "routes.text_to_image.weight=0", "routes.global_edit.weight=0", "run.steps=2")
    same = ("experts.local_edit.quantization=int8", "model.quantization=int8", "rollout.merge=false")
    config = make_config(*alone, *same, "run.name=same")
    reference(config)
    assert [row["loss"] for row in rows(config.folder / METRICS)] == [0.0, 0.0]
