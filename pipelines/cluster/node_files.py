"""Whether the nodes that may run a process see the files that it will read, before anything is deployed."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryFile
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipelines.cluster.connect import Say
from pipelines.cluster.demands import Demand, RunDemands
from pipelines.cluster.fingerprint import fingerprint
from pipelines.config.errors import ConfigError
from pipelines.config.location import uri_of
from pipelines.config.own_models import model_of, other_models, read_by, start_experts
from pipelines.config.run import RunConfig

_PATIENCE_S = 60.0  # for a worker process to start; the task asks for no CPU, so that it starts on a busy node too

Files = dict[str, Path]  # key of the configuration -> what it names
Prints = dict[str, tuple[Path, str]]  # the same with the content's fingerprint


def check_node_files(config: RunConfig, say: Say) -> None:
    """Let every node that may run a process of the run compare the process's files with those here; Ray is connected.

    A model's id on the hub is no file. Of large files sizes and ends are compared (`fingerprint`). The run's folder must be
    the same one for the learner, for its ranks, which write the checkpoints, and here, and all can write it.

    Raises:
        ConfigError: names the key, the path, the node and what is wrong; or the process that no node has room for.
    """
    wanted, folder = _by_node(config), _existing(config.folder.absolute())
    prints = {key: fingerprint(path) for files in wanted.values() for key, path in files.items() if _of_this_machine(path)}
    demands = RunDemands.of(config)
    writers = {node for demand in (demands.learner, demands.ranks) if demand for node in _candidates(demand)}
    try:
        with NamedTemporaryFile(prefix=".fieldweave-", dir=folder) as marker:
            asked = {
                node: _ask(
                    node,
                    {key: (path, prints[key]) for key, path in files.items() if key in prints},
                    Path(marker.name) if node in writers else None,
                )
                for node, files in wanted.items()
            }
            problems = _answers(asked)
    except OSError as error:
        raise ConfigError(f"run.dir: {folder} cannot be written here ({error.strerror})") from error
    if problems:
        more = f"; and {len(problems) - 1} more such files" if len(problems) > 1 else ""
        raise ConfigError(f"{problems[0]}; every node that runs a process must see what that reads{more}")
    say(f"{len(asked)} node{'s' * (len(asked) != 1)} can read what the run's processes will read there")


def _of_this_machine(path: Path) -> bool:
    """Whether other nodes have to see a path: what lies in object storage each of them fetches."""
    return path.exists() and uri_of(path) is None


def _by_node(config: RunConfig) -> dict[str, Files]:
    """Id of a node -> the files of all processes that it may run."""
    demands = RunDemands.of(config)
    learners = [demand for demand in (demands.learner, demands.ranks) if demand]
    processes = [
        *((demand, _learner_files(config)) for demand in learners),
        (demands.rollout, {"model.path": config.model.path}),
    ]
    if demands.owns_services:
        processes += [(demand, _service_files(config, name)) for name, demand in demands.services.items()]
    wanted: dict[str, Files] = {}
    for demand, files in processes:
        for node in _candidates(demand):
            wanted[node] = wanted.get(node, {}) | files
    return wanted


def _candidates(demand: Demand) -> list[str]:
    """Ids of the nodes that have what a process asks for, busy or not."""
    found = [node["NodeID"] for node in ray.nodes() if node["Alive"] and demand.fits(node)]
    if not found:
        raise ConfigError(demand.no_node)
    return found


def _learner_files(config: RunConfig) -> Files:
    files = {"model.path": config.model.path} | {f"routes.{name}.data": route.data for name, route in config.routes.items()}
    start = config.student.start
    if start.type == "adapter":
        return files | {"student.start.adapter": start.adapter}
    return files | _expert_files(config, start_experts(config))


def _service_files(config: RunConfig, service: str) -> Files:
    """Of an encoder, or of every network that the experts of an application evaluate."""
    if service in config.encoders:
        encoded = config.encoders[service]
        return {"model.path": config.model.path} if encoded is None else _base_files(config, encoded)
    members = [name for name in config.experts if config.service_of(name) == service]
    networks = {network: None for member in members for network in sorted(config.networks(member))}
    files = {"model.path": config.model.path} | _expert_files(config, networks)
    for member in members:
        for model in read_by(config, member):
            files |= _base_files(config, model)
    return files


def _base_files(config: RunConfig, model: str) -> Files:
    """The base of a model beside the run's own, under the first key that names it."""
    named = (name for name in config.experts if (of := model_of(config, name)) is not None and of.name == model)
    return {f"experts.{next(named)}.model.path": other_models(config)[model].path}


def _expert_files(config: RunConfig, experts: Iterable[str]) -> Files:
    own = {f"experts.{name}.{key}": getattr(config.experts[name], key) for name in experts for key in ("checkpoint", "adapter")}
    return {key: path for key, path in own.items() if path is not None}


def _existing(folder: Path) -> Path:
    """A folder, or the nearest one above it that exists."""
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def _ask(node: str, prints: Prints, marker: Path | None) -> Any:
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(_problems).options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote(prints, marker)


def _answers(asked: Mapping[str, Any]) -> list[str]:
    """What is wrong on all nodes together."""
    ready, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=_PATIENCE_S)
    nodes, found = {node["NodeID"]: node for node in ray.nodes()}, []
    for node, answer in asked.items():
        who = f"node {nodes[node]['NodeManagerAddress']} ({nodes[node]['NodeName']})"
        if answer not in ready:
            ray.cancel(answer, force=True)
            raise ConfigError(f"--address: {who} doesn't say within {_PATIENCE_S:.0f} s whether it can read the run's files")
        try:
            problems: dict[str, str] = ray.get(answer)
        except RayError as error:
            reason = " ".join(str(error).split())[-200:]
            raise ConfigError(f"--address: {who} cannot look for the run's files: {reason}") from error
        found += [f"{key}: {who}: {problem}" for key, problem in problems.items()]
    return found


def _problems(prints: Prints, marker: Path | None) -> dict[str, str]:
    """On a node: key -> what is wrong with what it names; `marker` is a file that was just written into the run's folder."""
    problems = {}
    for key, (path, content) in prints.items():
        try:
            if not path.exists():
                problems[key] = f"{path} is not there"
            elif fingerprint(path) != content:
                problems[key] = f"{path} has other content than here"
        except OSError as error:
            problems[key] = f"{path} cannot be read ({error.strerror})"
    if marker is not None:
        try:
            if not marker.exists():
                problems["run.dir"] = f"{marker.parent} is not the folder that it is here"
            with TemporaryFile(dir=marker.parent):
                pass
        except OSError as error:
            problems["run.dir"] = f"{marker.parent} cannot be written ({error.strerror})"
    return problems
