"""A whole run in which no process holds a model alone: the student of the reference loop to the last bit."""

import pytest

from runs import distributed, reference


@pytest.mark.slow
def test_experts_and_workers_of_two_processes_give_the_student_of_the_reference(cluster, make_config):
    settings = "rollout.merge=false", "rollout.workers=1", "experts.global_edit.operator={type: guidance, scale: 2}"
    several = "experts.local_edit.ranks=2", "experts.global_edit.ranks=2", "rollout.ranks=2"
    outcome = distributed(make_config(*settings, *several, "run.name=several"))
    assert outcome is not None
    assert outcome.weights.checksum == reference(make_config(*settings, "run.name=reference")).weights.checksum
