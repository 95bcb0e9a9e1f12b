"""What the configuration makes of base, checkpoints and adapters."""

import pytest
import torch

from fields.lora.formats import load_adapter
from fields.scene.family import SceneFamily
from pipelines.parts.asked import reads_empty
from pipelines.parts.run_parts import RunParts


@pytest.mark.parametrize(
    ("overrides", "routes"),
    [
        ((), set()),
        (("experts.local_edit.operator={type: guidance, scale: 3}",), {"local_edit"}),
        (
            (
                "experts.local_edit.operator={type: guidance, scale: 3}",
                "anchor={expert: local_edit, weight: 0.5}",
            ),
            {"text_to_image", "local_edit", "global_edit"},
        ),
        (("objective={type: pdm, weight: 0.5}",), {"text_to_image", "local_edit", "global_edit"}),
    ],
)
def test_the_empty_prompt_is_read_by_guided_experts_and_by_objectives_of_both_branches(make_config, overrides, routes):
    parts = RunParts(make_config(*overrides))
    assert {route for route in parts.config.routes if reads_empty(parts, route)} == routes


@pytest.mark.parametrize("adapter", [None, "local_edit"])
@pytest.mark.parametrize("checkpoint", [None, "other_base"])
def test_an_expert_is_the_base_or_a_checkpoint_with_or_without_an_adapter(make_config, tiny_models, checkpoint, adapter):
    """Each weight is the file's, plus scale B A where the adapter has it."""
    overrides = [f"experts.text_to_image.checkpoint={getattr(tiny_models, checkpoint)}"] if checkpoint else []
    overrides += [f"experts.text_to_image.adapter={getattr(tiny_models, adapter)}"] if adapter else []
    field = RunParts(make_config(*overrides)).field("text_to_image")
    plain = SceneFamily().load_transformer(getattr(tiny_models, checkpoint or "base"))
    x = torch.randn(5, 48)
    for name in ("blocks.0.to_qkv", "blocks.1.ff_in", "patch_out"):
        weight, bias = plain.get_parameter(f"{name}.weight"), plain.get_parameter(f"{name}.bias")
        if adapter:
            tensors = load_adapter(getattr(tiny_models, adapter), plain).tensors
            weight = weight + tensors[f"{name}.lora_B.weight"] @ tensors[f"{name}.lora_A.weight"]
        expected = x @ weight.T + bias
        torch.testing.assert_close(field.transformers["text_to_image"].get_submodule(name)(x), expected, rtol=1e-4, atol=1e-4)


def test_routes_share_batches_where_their_rows_have_as_many_source_images(make_config):
    """The rows of text_to_image have a column of source images, in which nothing is."""
    parts = RunParts(make_config("rollout.mix_routes=true"), dict.fromkeys(("text_to_image", "local_edit", "global_edit"), 8))
    assert parts.plan.sources is not None
    assert [parts.plan.sources(route) for route in parts.rows] == [0, 1, 1]
    shared = [{group.route for group in batch} for step in range(8) for batch in parts.plan.batches(step)]
    assert {"local_edit", "global_edit"} in shared
    assert all(routes == {"text_to_image"} or "text_to_image" not in routes for routes in shared)
