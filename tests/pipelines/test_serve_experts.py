"""Standing experts: two students learn from one set at the same time, each as if it were alone."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipelines import deployment
from pipelines.load import ConfigError
from pipelines.serve_experts import main, standing
from runs import distributed, reference
from services import applications

STUDENTS = {
    "first": ("run.seed=1", "learner.lag=1"),
    "second": ("run.seed=2", "student.rank=4", "student.alpha=4", "student.start.type=base", "student={type: lora}"),
}


@pytest.fixture(scope="module", params=["separate", "shared"])
def placement(request) -> str:
    return request.param


@pytest.fixture
def experts(cluster, config_file, placement, make_config) -> Iterator[tuple[str, ...]]:
    """The overrides under which the experts stand."""
    overrides = ("run.services=standing", *(f"experts.{name}.placement={placement}" for name in make_config().experts))
    assert main([str(config_file), "--address", cluster, *overrides]) == 0
    yield overrides
    assert main([str(config_file), "--address", cluster, *overrides, "--delete"]) == 0
    assert not [name for name in applications.running() if name.startswith("standing-")]


def test_two_runs_learn_from_one_set_of_experts_at_the_same_time(experts, make_config, capsys, config_file, cluster, placement):
    configs = {name: make_config(*experts, *overrides, f"run.name={name}") for name, overrides in STUDENTS.items()}
    with ThreadPoolExecutor(2) as pool:
        students = dict(zip(configs, pool.map(distributed, configs.values()), strict=True))
    alone = {name: distributed(make_config(*experts, *overrides, f"run.name={name}")) for name, overrides in STUDENTS.items()}
    for name, overrides in STUDENTS.items():
        assert students[name].weights.checksum == alone[name].weights.checksum
        if placement == "separate":
            expected = reference(make_config(*overrides, f"run.name=reference-{name}"))
            assert students[name].weights.checksum == expected.weights.checksum
    assert students["first"].weights.checksum != students["second"].weights.checksum
    assert all(name.startswith("standing-") for name in applications.running()), "the runs deployed nothing"
    assert set(deployment.missing(configs["first"])) == set(), "and deleted nothing"

    assert main([str(config_file), "--address", cluster, *experts]) == 0
    assert "stood already" in capsys.readouterr().out


def test_experts_with_other_settings_are_refused_with_the_difference(experts, make_config, tiny_models, config_file, cluster, capsys):
    other = (*experts, f"experts.local_edit.adapter={tiny_models.global_edit}", "run.threads=2")
    with pytest.raises(ConfigError) as refusal:
        deployment.require_standing(make_config(*other))
    assert "stands with other settings: " in str(refusal.value)
    assert "threads: 1 -> 2" in str(refusal.value)
    with pytest.raises(ConfigError, match=r"experts\.local_edit\.adapter: [0-9a-f]{64} -> [0-9a-f]{64}"):
        deployment.require_standing(make_config(*other[:-1]))
    assert main([str(config_file), "--address", cluster, *other]) == 2
    assert "stands with other settings" in capsys.readouterr().err
    deployment.require_standing(make_config(*experts, "run.seed=5", "experts.local_edit.num_cpus=0.2"))


def test_a_run_says_which_experts_do_not_stand(cluster, make_config):
    with pytest.raises(ConfigError, match=r"no application nowhere-text_to_image, .*serve_experts CONFIG run\.services=nowhere"):
        deployment.require_standing(make_config("run.services=nowhere"))


def test_services_are_called_after_the_run_where_nothing_else_is_said(make_config):
    assert standing(make_config("run.name=x")).run.services == "x"
    assert standing(make_config("run.name=x", "run.services=y")).run.services == "y"
