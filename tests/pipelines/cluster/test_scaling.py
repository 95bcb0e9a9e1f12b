"""Which numbers `python -m pipelines.scale` takes; test_job.py tests the scaling on a cluster."""

import pytest

from pipelines.cluster.scaling import wanted_numbers
from pipelines.config.errors import ConfigError


def test_a_number_for_each_part(make_config):
    written = ["experts.local_edit=3", "rollout=4", "encoder=2"]
    assert wanted_numbers(make_config(), written) == {"local_edit": 3, "rollout": 4, "encoder": 2}


def test_shared_experts_are_one_part(make_config):
    config = make_config("experts.local_edit.placement=shared", "experts.global_edit.placement=shared")
    assert wanted_numbers(config, ["experts.local_edit=2", "experts.global_edit=2"]) == {"shared": 2}
    with pytest.raises(ConfigError, match="the shared experts are one application; they have one number"):
        wanted_numbers(config, ["experts.local_edit=2", "experts.global_edit=3"])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("experts.nobody=2", "'experts.nobody=2': unknown part 'experts.nobody'; allowed: experts.text_to_image, "),
        ("rollout=0", "'rollout=0': write PART=N with a whole number N, at least 1"),
        ("rollout=-1", "'rollout=-1': write PART=N with a whole number N, at least 1"),
        ("encoder=two", "'encoder=two': write PART=N with a whole number N, at least 1"),
        ("encoder", "'encoder': write PART=N with a whole number N, at least 1"),
    ],
)
def test_what_is_no_number_of_a_part_is_refused(make_config, wrong, message):
    with pytest.raises(ConfigError) as refused:
        wanted_numbers(make_config(), [wrong])
    assert str(refused.value).startswith(message)
