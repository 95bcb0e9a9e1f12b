"""Standing experts: two students learn from one set at the same time, each as if it were alone."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from pipelines import deployment
from pipelines.load import ConfigError
from pipelines.serve_experts import main, standing
from runs import distributed, reference
from services import applications

STUDENTS = {
    "first": ("run.steps=4", "run.seed=1", "learner.lag=1"),
    "second": ("run.steps=4", "run.seed=2", "student={rank: 4, alpha: 4, start: {type: base}}"),
}


@pytest.mark.parametrize("placement", ["separate", "shared"])
def test_two_runs_learn_from_one_set_of_experts_at_the_same_time(
    cluster, config_file, make_config, tiny_models, placement, capsys
):
    experts = ("run.services=standing", *(f"experts.{name}.placement={placement}" for name in make_config().experts))
    serve_experts = [str(config_file), "--address", cluster, *experts]
    assert main(serve_experts) == 0
    try:
        configs = {name: make_config(*experts, *overrides, f"run.name={name}") for name, overrides in STUDENTS.items()}
        with ThreadPoolExecutor(2) as pool:
            students = dict(zip(configs, pool.map(distributed, configs.values()), strict=True))
        run_alone = reference if placement == "separate" else distributed  # mixed batches sum in another order
        for name, overrides in STUDENTS.items():
            alone = run_alone(make_config(*experts, *overrides, f"run.name={name}-alone"))
            assert students[name].weights.checksum == alone.weights.checksum
        assert students["first"].weights.checksum != students["second"].weights.checksum
        assert {name for name in applications.listed() if name.startswith("first-")} == set(), "the runs deployed nothing"
        assert deployment.missing(configs["first"]) == [], "and deleted nothing"

        capsys.readouterr()
        assert main(serve_experts) == 0
        assert capsys.readouterr().out.count("stood already") == len(configs["first"].services)
        _refuses_others(serve_experts, lambda *more: make_config(*experts, *more), tiny_models, capsys)
    finally:
        assert main([*serve_experts, "--delete"]) == 0
    assert [name for name in applications.listed() if name.startswith("standing:")] == []


def _refuses_others(serve_experts, make_config, tiny_models, capsys):
    adapter = f"experts.local_edit.adapter={tiny_models.global_edit}"
    with pytest.raises(
        ConfigError, match=r"stands with other settings: experts\.local_edit\.adapter: [0-9a-f]{64} -> [0-9a-f]{64}"
    ):
        deployment.require_standing(make_config(adapter))
    assert main([*serve_experts, "run.threads=2"]) == 2
    assert "stands with other settings: threads: 1 -> 2. Use them" in capsys.readouterr().err
    deployment.require_standing(make_config("run.seed=5", "encoder.num_cpus=0.2", "rollout.steps=3"))


def test_a_run_says_which_experts_do_not_stand(cluster, make_config):
    with pytest.raises(
        ConfigError, match=r"no application nowhere:text_to_image, .*serve_experts CONFIG run\.services=nowhere"
    ):
        deployment.require_standing(make_config("run.services=nowhere"))


def test_services_are_called_after_the_run_where_nothing_else_is_said(make_config):
    assert standing(make_config("run.name=x")).run.services == "x"
    assert standing(make_config("run.name=x", "run.services=y")).run.services == "y"
