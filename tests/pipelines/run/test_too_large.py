"""A group that no memory holds is refused in one line, before the first exam: here of 691 GB of states."""

import pytest

from pipelines.config.errors import ConfigError
from runs import distributed, reference

HUGE = "rollout.group_size=100000000", "learner.batch_size=100000000"
NO_MEMORY = "has no memory for 100000000 samples of 24 x 24 pixels with a source image: .*; lower "


def test_the_reference_names_the_expert_and_the_key(make_config):
    with pytest.raises(ConfigError, match=f"^the expert text_to_image {NO_MEMORY}rollout.group_size$"):
        reference(make_config(*HUGE))


@pytest.mark.slow  # the reference loop says the same
def test_a_distributed_run_names_who_has_none_and_not_the_learner_that_splits_its_groups(on_standing, make_config):
    with pytest.raises(ConfigError, match=f"^(a rollout worker|the replica of expert [a-z_]+) {NO_MEMORY}rollout.group_size$"):
        distributed(on_standing(*HUGE, "learner.micro_batch=1", "run.name=split"))
