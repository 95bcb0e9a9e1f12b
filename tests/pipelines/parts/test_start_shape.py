"""A start that the student's LoRA cannot hold is one line, with the keys to set; set so, it starts."""

import pytest
import torch

from fields.lora.adapter import Adapter, LoraShape, add_lora
from fields.lora.peft_files import write_adapter
from fields.scene.family import SceneFamily
from pipelines.config.errors import ConfigError
from pipelines.parts.check_files import checked_parts

ATTENTION = ("to_qkv", "to_out")


@pytest.fixture
def adapter(tiny_models, tmp_path):
    """Writes a random adapter of some shape over the tiny base."""

    def write(shape: LoraShape) -> str:
        parameters = add_lora(SceneFamily().load_transformer(tiny_models.base), shape, seed=0)
        tensors = {name: torch.randn(p.shape, generator=torch.Generator().manual_seed(1)) for name, p in parameters.items()}
        write_adapter(tmp_path / "adapter", Adapter(shape, tensors))
        return str(tmp_path / "adapter")

    return write


def refusal(config) -> str:
    with pytest.raises(ConfigError) as refused:
        checked_parts(config)
    return str(refused.value)


def test_another_rank_names_the_keys_and_values_to_set(adapter, make_config):
    path = adapter(LoraShape(16, 16.0, SceneFamily.default_lora_targets))
    message = refusal(make_config(f"experts.local_edit.adapter={path}", "student.rank=128", "student.alpha=128"))
    assert message == (
        "experts.local_edit.adapter has rank 16, student.rank is 128: set student.rank=16 student.alpha=16 "
        "(alpha / rank stays as it is)"
    )
    checked_parts(make_config(f"experts.local_edit.adapter={path}", "student.rank=16", "student.alpha=16"))
    file = f"student.start={{type: adapter, adapter: {path}}}"
    assert refusal(make_config(file)).startswith("student.start.adapter has rank 16, student.rank is 8: set student.rank=16")


def test_several_ranks_are_for_a_merge(adapter, make_config):
    path = adapter(LoraShape(4, 4.0, SceneFamily.default_lora_targets, ranks={"patch_in": 2}))
    message = refusal(make_config(f"experts.local_edit.adapter={path}"))
    assert message == (
        "experts.local_edit.adapter has ranks from 2 to 4, a student has one rank: start at a merge, which is cut to it "
        "(student.start={type: merge, experts: {NAME: 1}} with the adapter as an expert NAME), or at the base"
    )
    checked_parts(make_config(f"experts.local_edit.adapter={path}", "student.start={type: merge, experts: {local_edit: 1}}"))


@pytest.mark.parametrize(
    ("start", "key"),
    [
        ("{type: expert, expert: local_edit}", "experts.local_edit.adapter"),
        ("{type: merge, experts: {local_edit: 1}}", "student.start"),
        ("{type: regression}", "student.start"),
    ],
)
def test_other_modules_name_the_targets_to_set(adapter, make_config, start, key):
    path = adapter(LoraShape(8, 8.0, ATTENTION))
    overrides = [f"experts.local_edit.adapter={path}", f"experts.global_edit.adapter={path}", f"student.start={start}"]
    message = refusal(make_config(*overrides))
    assert message.startswith(f"{key} changes other modules than student.targets name, ")
    assert message.endswith(": set student.targets=[to_out,to_qkv]")
    checked_parts(make_config(*overrides, "student.targets=[to_out,to_qkv]"))


def test_targets_begin_at_a_word_of_a_name():
    """The last part of a module's name may be a number, which names too much and is no text in YAML."""
    from pipelines.config.start_shape import _targets

    every = ["blocks.0.to_out.0", "blocks.0.to_q", "other.0.to_q", "last"]
    assert _targets(["blocks.0.to_out.0", "blocks.0.to_q"], every) == ["blocks.0.to_q", "to_out.0"]
