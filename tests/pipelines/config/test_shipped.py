from pathlib import Path

import pytest

from pipelines.config.load import load_config
from pipelines.parts.run_parts import RunParts

CONFIGS = Path("pipelines/configs")
COMPARISONS = [CONFIGS / "compare_scene.yaml"]  # tests/pipelines/comparison/test_compare.py
SHIPPED = sorted({*CONFIGS.glob("*.yaml"), *Path("deploy").rglob("config*.yaml")} - set(COMPARISONS))


@pytest.mark.parametrize("path", SHIPPED, ids=str)
def test_shipped_configurations_parse(path):
    config = load_config(path, [])
    assert set(RunParts(config, dict.fromkeys(config.routes, 1)).plan.rows) == set(config.routes)


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
