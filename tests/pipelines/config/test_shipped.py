"""Every shipped configuration builds what its YAML says; what the YAML leaves out is the paper's."""

import re
from pathlib import Path

import pytest
import yaml

from fields.method.objective import VelocityMse
from fields.method.query import BetaQuery, UniformQuery
from fields.method.routing import HardRouting
from fields.method.solver import Euler
from fields.operators import Guidance, Network
from fields.student import FullStudent, LoraStudent
from pipelines.config.load import load_config
from pipelines.parts.run_parts import RunParts

CONFIGS = Path("pipelines/configs")
COMPARISONS = [CONFIGS / f"compare_{name}.yaml" for name in ("scene", "two_skills", "compress", "time_to_skill")]
SHIPPED = sorted({*CONFIGS.glob("*.yaml")} - set(COMPARISONS))
JOBS = sorted(Path("deploy/kuberay").glob("ray-job.*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=str)
def test_a_shipped_configuration_builds_what_it_says(path):
    config, written = load_config(path, []), yaml.safe_load(path.read_text())
    rows = {route: 10 + n for n, route in enumerate(written["routes"])}
    parts = RunParts(config, rows)
    plan = parts.plan
    assert (plan.rows, plan.seed) == (rows, 0)
    assert (plan.batch_size, plan.group_size) == (written["learner"]["batch_size"], written["rollout"]["group_size"])
    assert plan.query == (UniformQuery() if "query" in written else BetaQuery(5.0, 2.0))
    assert plan.routing == HardRouting({name: float(route.get("weight", 1)) for name, route in written["routes"].items()})
    assert (parts.solver, parts.objective) == (Euler(), VelocityMse())
    teaching = parts.teaching
    assert teaching.shares == {name: {route["expert"]: 1.0} for name, route in written["routes"].items()}
    student = parts.student
    if written["student"].get("type") == "full":
        assert isinstance(student, FullStudent)
    else:
        assert isinstance(student, LoraStudent)
        assert student.shape.rank == student.shape.alpha == written["student"].get("rank", 64)
    schedule = parts.schedule(start=0)
    assert (schedule.steps, schedule.lag.steps) == (written["run"]["steps"], written["learner"].get("lag", 1))


@pytest.mark.parametrize("path", SHIPPED, ids=str)
def test_the_experts_of_a_shipped_configuration_compute_what_it_says(path):
    config, written = load_config(path, []), yaml.safe_load(path.read_text())
    experts = RunParts(config).experts
    for name, expert in written["experts"].items():
        operator = expert.get("operator")
        expected = Guidance(Network(operator["of"]), float(operator["scale"])) if operator else Network(name)
        assert experts.expression(name) == expected


@pytest.mark.parametrize("path", JOBS, ids=str)
def test_a_manifest_names_a_shipped_configuration(path):
    named = [Path(name) for name in re.findall(r"pipelines/configs/[\w.-]+\.yaml", path.read_text())]
    assert named
    assert set(named) <= set(SHIPPED)


def test_there_are_manifests_and_configurations():
    """Or the tests above would pass for a folder that has moved."""
    assert {path.stem for path in JOBS} == {"ray-job.distill", "ray-job.distill-gpu", "ray-job.distill-8gpu"}
    assert {path.stem for path in SHIPPED} >= {"scene", "scene_full", "scene_gpu", "compare_base", "sd35", "flux_kontext"}


def test_overrides_replace_nested_values(make_config):
    config = make_config("experts.local_edit.replicas=3", "query={type: uniform, coordinate: sigma}", "run.seed=7")
    assert config.experts["local_edit"].replicas == 3
    assert config.query.type == "uniform"
    assert config.run.seed == 7


def test_a_configuration_survives_its_own_yaml(make_config, tmp_path):
    """config.yaml in a run folder can be run again."""
    from pipelines.run_folder.outcome import write_config

    config = make_config("query={type: uniform}")
    write_config(config)
    assert load_config(config.folder / "config.yaml", []) == config
