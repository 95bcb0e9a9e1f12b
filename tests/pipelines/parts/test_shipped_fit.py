"""Every shipped configuration of a large model fits the GPUs that it is written for."""

from pathlib import Path

import published
import pytest
from shipped import LARGE

from pipelines.config.gpus import GIGABYTE
from pipelines.config.load import load_config
from pipelines.parts.needs import Needs
from pipelines.plan import main

CONFIGS = Path("pipelines/configs")


def test_these_are_all_configurations_of_models_that_are_downloaded():
    large = {path.stem for path in CONFIGS.glob("*.yaml") if "  dtype: bfloat16" in path.read_text()}
    assert large == LARGE.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_a_shipped_configuration_fits_where_it_says(name, tmp_path):
    large = LARGE[name]
    config = load_config(CONFIGS / f"{name}.yaml", [f"model.path={published.write(large.model, tmp_path)}"])
    assert large.model in str(load_config(CONFIGS / f"{name}.yaml", []).model.path)
    needs = Needs.of(config)
    assert (needs.micro_batch, needs.recompute, needs.merge) == (large.micro_batch, large.recompute, True)
    assert needs.too_large == []
    assert sum(one.count * one.num_gpus for one in needs.footprints) == pytest.approx(large.gpus)
    sharing = [one for one in needs.footprints if one.num_gpus % 1]
    assert sum(one.count * one.num_gpus for one in sharing) <= 1 + 1e-9, "they share one GPU"
    assert sum(one.count * one.device for one in sharing) <= 80 * GIGABYTE


@pytest.mark.slow
def test_the_plan_of_a_configuration_that_fits_ends_well_and_else_names_a_key(tmp_path, capsys):
    """SD3.5's group of 8 needs 67.4 GB at once, and nothing has to be computed again."""
    model = published.write("stable-diffusion-3.5-medium", tmp_path)
    given = [str(CONFIGS / "sd35.yaml"), f"model.path={model}"]
    assert main(given) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[said.index("everything fits") + 1].strip().startswith("Seconds of an optimizer step")
    assert main([*given, "encoder.num_gpus=0.1"]) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(
        "encoder doesn't fit: it needs 13.8 GB with CUDA's own, its share of a h100 has 8.0; set encoder.num_gpus=0"
    )
