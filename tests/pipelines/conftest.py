"""A configuration over the tiny models, and one real Ray cluster for the session."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from pipelines.cluster.deployment import RunServices
from pipelines.config.load import load_config
from pipelines.config.run import RunConfig
from pipelines.data.scene import prepare_scene
from pipelines.distill import main
from pipelines.parts.run_parts import RunParts

MakeConfig = Callable[..., RunConfig]


@pytest.fixture(scope="session")
def scene_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    prepare_scene(folder, rows=48)
    return folder


@pytest.fixture
def config_file(tiny_models, scene_data: Path, tmp_path: Path) -> Path:
    """A run of the tiny models: three experts, eight steps, no evaluation."""
    content = {
        "run": {"name": "tiny", "dir": str(tmp_path / "runs"), "steps": 8},
        "model": {"family": "scene", "path": str(tiny_models.base)},
        "experts": {
            "text_to_image": {"num_cpus": 0.1},
            "local_edit": {"adapter": str(tiny_models.local_edit), "num_cpus": 0.1},
            "global_edit": {"adapter": str(tiny_models.global_edit), "num_cpus": 0.1},
        },
        "routes": {
            name: {"expert": name, "data": str(scene_data / f"{name}.parquet")}
            for name in ("text_to_image", "local_edit", "global_edit")
        },
        "encoder": {"num_cpus": 0.1},
        "student": {"rank": 8, "alpha": 8, "start": {"type": "expert", "expert": "local_edit"}},
        "rollout": {"workers": 2, "group_size": 4, "steps": 8, "num_cpus": 0.1},
        "learner": {"batch_size": 12, "learning_rate": 1e-3, "lag": 0, "num_cpus": 0.1},
        "checkpoint": {"every": 4},
        "eval": {"every": 0, "samples": 1},
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.fixture
def refuse(config_file: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run the command with overrides; it must refuse with one line, which is returned."""

    def run(*overrides: str) -> str:
        assert main([str(config_file), *overrides]) == 2
        captured = capsys.readouterr()
        assert captured.out == "", "something was started"
        (line,) = captured.err.splitlines()
        return line

    return run


@pytest.fixture
def make_config(config_file: Path) -> MakeConfig:
    return lambda *overrides: load_config(config_file, list(overrides))


@pytest.fixture(scope="session")
def _deployed(cluster: str) -> Iterator[list[RunConfig]]:
    configs: list[RunConfig] = []
    yield configs
    for config in configs:
        RunServices(RunParts(config)).delete(wait=True)


@pytest.fixture
def on_standing(_deployed: list[RunConfig], make_config: MakeConfig) -> MakeConfig:
    """Configurations of runs on one set of services, which stand till the session ends: for tests of what is asked of them."""

    def make(*overrides: str) -> RunConfig:
        config = make_config("run.services=session", *overrides)
        if not _deployed:
            RunServices(RunParts(config)).deploy()
            _deployed.append(config)
        return config

    return make
