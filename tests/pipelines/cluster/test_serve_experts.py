"""Standing experts: two students learn from one set at the same time, as if alone; and the command for them."""

import re
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import ray
from waiting import wait_for

from pipelines.cluster.deployment import RunServices
from pipelines.config.errors import ConfigError
from pipelines.config.run import RunConfig
from pipelines.parts.run_parts import RunParts
from pipelines.serve_experts import main, standing
from runs import distributed, reference
from services import applications


@dataclass(frozen=True)
class Served:
    """The command that served them, and configurations that use them."""

    command: list[str]
    config: Callable[..., RunConfig]


STUDENTS = {
    "first": ("run.steps=4", "run.seed=1", "rollout.workers=1", "learner.lag=1"),
    "second": ("run.steps=4", "run.seed=2", "rollout.workers=1", "student={rank: 4, alpha: 4, start: {type: base}}"),
}


@pytest.fixture(params=[pytest.param("separate", marks=pytest.mark.slow), "shared"])
def served(request, cluster, config_file, make_config, capsys) -> Iterator[Served]:
    """Experts that stand until the test is over."""
    overrides = ("run.services=standing", *(f"experts.{name}.placement={request.param}" for name in make_config().experts))
    command = [str(config_file), "--address", cluster, *overrides]
    assert main(command) == 0
    yield Served(command, lambda *more: make_config(*overrides, *more))
    assert main([*command, "--delete"]) == 0
    assert [name for name in applications.listed() if name.startswith("standing:")] == []


@pytest.mark.slow
def test_two_runs_learn_from_one_set_of_experts_at_the_same_time(on_standing, make_config):
    configs = {name: on_standing(*overrides, f"run.name={name}") for name, overrides in STUDENTS.items()}
    with ThreadPoolExecutor(2) as pool:
        students = dict(zip(configs, pool.map(distributed, configs.values()), strict=True))
    for name, overrides in STUDENTS.items():
        assert students[name].weights.checksum == reference(make_config(*overrides, f"run.name={name}-alone")).weights.checksum
    assert students["first"].weights.checksum != students["second"].weights.checksum
    assert [name for name in applications.listed() if name.startswith(("first", "second"))] == [], "the runs deployed nothing"
    assert RunServices(RunParts(configs["first"])).missing() == [], "and deleted nothing"
    ports = [f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics" for node in ray.nodes()]
    encoded = re.compile(r'field_encoder_cache_misses_total\{.*run="session".*\} [1-9]')
    wait_for(
        lambda: any(encoded.search(urllib.request.urlopen(port).read().decode()) for port in ports),
        "the encoder's count for the set, not for a run",
    )


def test_what_stands_is_adopted_or_refused_with_the_difference(served, tiny_models, capsys):
    capsys.readouterr()
    assert main(served.command) == 0
    assert capsys.readouterr().out.count("stood already") == len(served.config().services)
    adapter = f"experts.local_edit.adapter={tiny_models.global_edit}"
    difference = r"stands with other settings: experts\.local_edit\.adapter: [0-9a-f]{64} -> [0-9a-f]{64}"
    with pytest.raises(ConfigError, match=difference):
        RunServices(RunParts(served.config(adapter))).require_standing()
    assert main([*served.command, "numerics.threads=2"]) == 2
    assert "stands with other settings: numerics.threads: 1 -> 2. Use them" in capsys.readouterr().err
    config = served.config("run.seed=5", "encoder.num_cpus=0.2", "rollout.steps=3")
    services = RunServices(RunParts(config))
    services.require_standing()
    assert services.devices() == dict.fromkeys(services.names, "cpu")
    with pytest.raises(
        ConfigError, match=r"standing:encoder stands on cpu, and encoder\.num_gpus: 0\.5 asks for cuda\. Ask for"
    ):
        RunServices(RunParts(served.config("encoder.num_gpus=0.5"))).require_standing()
    gpus = [f"experts.{name}.num_gpus=1" for name in config.experts]
    with pytest.raises(ConfigError, match=r"stands on cpu, and experts\.text_to_image\.num_gpus: 1 asks for cuda"):
        RunServices(RunParts(served.config(*gpus))).require_standing()


def test_a_run_says_which_experts_do_not_stand(cluster, make_config):
    with pytest.raises(
        ConfigError, match=r"no application nowhere:text_to_image, .*serve_experts CONFIG run\.services=nowhere"
    ):
        RunServices(RunParts(make_config("run.services=nowhere"))).require_standing()


def test_services_are_called_after_the_run_where_nothing_else_is_said(make_config):
    assert standing(make_config("run.name=x")).run.services == "x"
    assert standing(make_config("run.name=x", "run.services=y")).run.services == "y"
