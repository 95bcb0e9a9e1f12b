"""The manifests of deploy/kuberay: valid to the last field, and asking for what their runs need."""

import copy
import re
import shlex
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import published
import pytest
import yaml
from schemas import errors, pod_errors
from shipped import LARGE

from pipelines.cluster.demands import Demand, RunDemands
from pipelines.config.load import load_config
from pipelines.config.run import RunConfig
from pipelines.distill import parser
from pipelines.parts.needs import Needs

FILES = sorted(Path("deploy/kuberay").glob("*.yaml"))
JOBS = [path for path in FILES if path.name.startswith("ray-job.")]
GPU = [path for path in FILES if path.stem in ("ray-job.distill-gpu", "ray-job.distill-8gpu", "ray-cluster.experts")]
EIGHT = Path("deploy/kuberay/ray-job.distill-8gpu.yaml")
FREE_OF_STORE = 0.7  # Ray's object store takes 30 % of a pod's memory
DEMO = Path("deploy/kuberay/ray-job.distill.yaml")


def _manifests(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def _ray(path: Path) -> dict[str, Any]:
    (manifest,) = [manifest for manifest in _manifests(path) if manifest["apiVersion"] == "ray.io/v1"]
    return manifest


def _cluster(path: Path) -> dict[str, Any]:
    spec = _ray(path)["spec"]
    return spec.get("rayClusterSpec", spec)


def _ray_pods(path: Path) -> Iterator[dict[str, Any]]:
    cluster = _cluster(path)
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        yield group["template"]["spec"]


def _run(path: Path) -> tuple[RunConfig, float]:
    """The configuration of the run that a job's entrypoint starts, and the seconds that it waits for resources."""
    python, flag, module, *arguments = shlex.split(_ray(path)["spec"]["entrypoint"])
    assert (python, flag, module) == ("python", "-m", "pipelines.distill")
    options = parser().parse_intermixed_args(arguments)
    return load_config(options.config, options.overrides), options.wait


@pytest.mark.parametrize("path", FILES, ids=str)
def test_manifests_are_valid(path):
    assert [error for manifest in _manifests(path) for error in errors(manifest)] == []
    spec = _ray(path)["spec"]
    templates = [group["template"] for group in (_cluster(path)["headGroupSpec"], *_cluster(path)["workerGroupSpecs"])]
    templates += [spec["submitterPodTemplate"]] if "submitterPodTemplate" in spec else []
    assert [error for template in templates for error in pod_errors(template)] == []


@pytest.mark.parametrize(
    ("where", "field"),
    [
        ((), "specs"),
        (("spec",), "entryPoint"),
        (("spec", "rayClusterSpec", "headGroupSpec"), "rayStartParam"),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "template", "spec", "containers", 0), "imagePullPolize"),
        (("spec", "rayClusterSpec", "autoscalerOptions", "resources"), "limit"),
    ],
)
def test_an_unknown_field_is_refused(where, field):
    manifest = copy.deepcopy(_ray(DEMO))
    place: Any = manifest
    for key in where:
        place = place[key]
    place[field] = "1"
    (error,) = errors(manifest)
    assert f"'{field}' was unexpected" in error


def test_an_unknown_field_of_a_pod_or_a_claim_is_refused():
    pod = copy.deepcopy(next(_ray_pods(DEMO)))
    pod["containers"][0]["livenessProbe"]["httpPut"] = {"port": 1}
    assert "httpPut" in pod_errors({"spec": pod})[0]
    claim = copy.deepcopy(_manifests(DEMO)[0])
    claim["spec"]["accessMode"] = "ReadWriteMany"
    assert "accessMode" in errors(claim)[0]


def test_a_wrong_value_is_refused():
    manifest = copy.deepcopy(_ray(DEMO))
    manifest["spec"]["rayClusterSpec"]["authOptions"]["mode"] = "password"
    manifest["spec"]["backoffLimit"] = "3"
    assert len(errors(manifest)) == 2


@pytest.mark.parametrize("path", JOBS, ids=str)
def test_the_run_writes_to_the_shared_volume(path):
    config, _ = _run(path)
    assert _ray(path)["spec"]["metadata"] == {"run": config.run.name}
    for pod in _ray_pods(path):
        (mount,) = pod["containers"][0]["volumeMounts"]
        assert config.run.dir == Path(mount["mountPath"])
        (claim,) = [manifest for manifest in _manifests(path) if manifest["kind"] == "PersistentVolumeClaim"]
        assert pod["volumes"] == [{"name": "runs", "persistentVolumeClaim": {"claimName": claim["metadata"]["name"]}}]


@pytest.mark.parametrize("path", JOBS, ids=str)
def test_the_worker_groups_can_grow_to_what_the_run_asks_for(path):
    config, wait = _run(path)
    assert wait >= 600, "nodes take minutes to come"
    for kind, limit in (("num_cpus", "cpu"), ("num_gpus", "nvidia.com/gpu")):
        asked: dict[tuple[tuple[str, str], ...], float] = {}
        for demand in RunDemands.of(config).started:
            labels = tuple(sorted(demand.node_labels.items()))
            asked[labels] = asked.get(labels, 0.0) + demand.count * getattr(demand, kind)
        for labels, amount in asked.items():
            groups = _cluster(path)["workerGroupSpecs"]
            fitting = [group for group in groups if dict(labels).items() <= group.get("labels", {}).items()]
            most = sum(group["maxReplicas"] * _limits(group).get(limit, 0) for group in fitting)
            assert amount <= most, f"{limit} of {labels}"


def _limits(group: dict[str, Any]) -> dict[str, float]:
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    return {kind: float(amount) for kind, amount in limits.items() if kind != "memory"}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_pods_are_confined_probed_and_bounded(path):
    submitter = _ray(path)["spec"].get("submitterPodTemplate")
    for pod in (*_ray_pods(path), *([submitter["spec"]] if submitter else [])):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert re.search(rf"--uid {pod['securityContext']['runAsUser']}\b", Path("deploy/docker/Dockerfile").read_text())
        for container in pod["containers"]:
            assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
            assert container["resources"]["requests"].keys() == container["resources"]["limits"].keys() >= {"cpu", "memory"}
    for pod in _ray_pods(path):
        assert {"startupProbe", "livenessProbe"} <= pod["containers"][0].keys()
    assert _cluster(path)["enableInTreeAutoscaling"] is True
    assert _cluster(path)["authOptions"]["mode"] == "token"
    assert _cluster(path)["rayVersion"] == version("ray")


@pytest.mark.parametrize("path", JOBS, ids=str)
def test_a_drained_head_has_time_for_a_checkpoint(path):
    head = next(_ray_pods(path))
    assert head["containers"][0]["lifecycle"]["preStop"]["exec"]["command"] == ["python", "-m", "pipelines.drain"]
    environment = yaml.safe_load(_ray(path)["spec"]["runtimeEnvYAML"])["env_vars"]
    assert 60 <= int(environment["RAY_JOB_STOP_WAIT_TIME_S"]) < head["terminationGracePeriodSeconds"]


@pytest.mark.parametrize("path", GPU, ids=str)
def test_pods_with_gpus_reach_gated_models_and_share_what_is_downloaded(path):
    for pod in _ray_pods(path):
        (container,) = pod["containers"]
        variables = {variable["name"]: variable for variable in container["env"]}
        (mount,) = container["volumeMounts"]
        assert Path(variables["HF_HOME"]["value"]).is_relative_to(mount["mountPath"])
        assert variables["HF_TOKEN"].keys() == {"name", "valueFrom"}, "no secret stands in a manifest"
        assert variables["HF_TOKEN"]["valueFrom"]["secretKeyRef"].keys() == {"name", "key", "optional"}


def test_the_pods_of_a_job_hold_what_its_run_puts_into_them():
    path = Path("deploy/kuberay/ray-job.distill-gpu.yaml")
    _assert_pods_hold(path, _run(path)[0])


@pytest.mark.slow
@pytest.mark.parametrize("path", GPU, ids=str)
@pytest.mark.parametrize("name", LARGE)
def test_pods_hold_every_shipped_configuration_of_a_large_model(path, name, tmp_path):
    model = published.write(LARGE[name].model, tmp_path)
    _assert_pods_hold(path, load_config(Path(f"pipelines/configs/{name}.yaml"), [f"model.path={model}"]))


def _assert_pods_hold(path: Path, config: RunConfig) -> None:
    """Each kind of pod has the memory of what Ray can put into it beside its object store, and all pods together the GPUs."""
    footprints = {footprint.who: footprint for footprint in Needs.of(config).footprints}
    demands, groups = RunDemands.of(config).started, _cluster(path)["workerGroupSpecs"]

    def need(demand: Demand) -> float:
        """Host memory; the learner's is that of each of its ranks, and a learner of several holds what the driver does."""
        if demand.who == "learner" and config.learner.rank_actors:
            return footprints["driver"].host
        return footprints["learner" if demand.who == "learner.ranks" else demand.who].host

    head = next(_ray_pods(path))["containers"][0]["resources"]
    assert footprints["driver"].host <= FREE_OF_STORE * _bytes(head["requests"]["memory"])
    for group in groups:
        cpus, gpus, host = _limits(group)["cpu"], _limits(group)["nvidia.com/gpu"], 0.0
        mine = [demand for demand in demands if demand.node_labels.items() <= group.get("labels", {}).items()]
        for demand in sorted(mine, key=need, reverse=True):
            for _ in range(demand.count):
                if demand.num_cpus <= cpus and demand.num_gpus <= gpus + 1e-9:
                    cpus, gpus, host = cpus - demand.num_cpus, gpus - demand.num_gpus, host + need(demand)
        sharing = sum(need(demand) * demand.count for demand in mine if 0 < demand.num_gpus < 1)
        host = max(host, sharing)  # in one pod, as every shipped configuration has them
        requested = group["template"]["spec"]["containers"][0]["resources"]["requests"]["memory"]
        assert host <= FREE_OF_STORE * _bytes(requested), f"{group['groupName']}: {host / 1e9:.0f} GB of {requested}"
    most = sum(group["maxReplicas"] * _limits(group)["nvidia.com/gpu"] for group in groups)
    assert sum(demand.count * demand.num_gpus for demand in demands) <= most


def test_two_nodes_of_eight_are_filled_by_what_the_manifest_says():
    (line,) = [line for line in EIGHT.read_text().splitlines() if line.startswith("#   learner.ranks=")]
    config, _ = _run(EIGHT)
    asked = [sum(demand.count * demand.num_gpus for demand in RunDemands.of(c).started) for c in (config, _wider(line))]
    assert asked == [8, 16]
    assert (config.learner.batch_size, _wider(line).learner.ranks) == (64, 4), "two groups for each of four ranks"


def _wider(line: str) -> RunConfig:
    return load_config(Path("pipelines/configs/sd35_eight_gpus.yaml"), line.removeprefix("#").split())


def _bytes(quantity: str) -> float:
    return float(quantity.removesuffix("Gi")) * 2**30
