"""An expert's files that don't hold what they should are refused in one line, before Ray is even imported by the command."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fields.scene.family import save_transformer
from fields.scene.transformer import SceneTransformer
from pipelines.distill import main


@pytest.fixture
def adapter(tiny_models, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_models.local_edit, tmp_path / "adapter"))


def test_adapter_of_another_shape(refuse, adapter):
    tensors = load_file(adapter / "adapter_model.safetensors")
    name = "base_model.model.patch_in.lora_A.weight"
    save_file({**tensors, name: tensors[name][:, :-1].contiguous()}, adapter / "adapter_model.safetensors")
    line = refuse(f"experts.global_edit.adapter={adapter}")
    assert "1 tensors don't fit the model: patch_in.lora_A.weight is (8, 191), wanted (8, 192)" in line


def test_adapter_with_another_key(refuse, adapter):
    tensors = load_file(adapter / "adapter_model.safetensors")
    save_file({f"x.{name}": tensor for name, tensor in tensors.items()}, adapter / "adapter_model.safetensors")
    line = refuse(f"experts.global_edit.adapter={adapter}")
    assert f"{len(tensors)} keys are of no linear module of SceneTransformer: x.base_model.model.blocks.0.ff_in.lora_A" in line


def test_a_key_is_ignored_by_name_only(refuse, adapter, config_file, capsys):
    path = adapter / "adapter_model.safetensors"
    save_file({**load_file(path), "text_encoder.q.lora_A.weight": torch.ones(8, 4)}, path)
    override = f"experts.global_edit.adapter={adapter}"
    assert "1 keys are of no linear module of SceneTransformer: text_encoder.q.lora_A.weight" in refuse(override)
    assert main([str(config_file), "--dry-run", override, "experts.global_edit.ignore_keys=[text_encoder.*]"]) == 0
    assert "is valid" in capsys.readouterr().out


def test_checkpoint_of_another_architecture(refuse, tmp_path):
    save_transformer(SceneTransformer(width=32, depth=2, heads=2), tmp_path / "narrow")
    line = refuse(f"experts.global_edit.checkpoint={tmp_path / 'narrow'}")
    assert line.startswith("error: experts.global_edit.checkpoint: ")
    assert "tensors don't fit the base: blocks.0.ff_in.bias is (128,), wanted (192,); blocks.0.ff_in.weight is" in line


def test_checkpoint_of_another_depth(refuse, tmp_path):
    save_transformer(SceneTransformer(width=48, depth=3, heads=2), tmp_path / "deep")
    line = refuse(f"experts.global_edit.checkpoint={tmp_path / 'deep'}")
    assert "12 tensors don't fit the base: blocks.2.ff_in.bias is (192,), wanted none; " in line


def test_checkpoint_of_nothing(refuse, tmp_path):
    line = refuse(f"experts.global_edit.checkpoint={tmp_path}")
    assert f"experts.global_edit.checkpoint: {tmp_path} is no scene model: it has no config.json" in line


def test_adapter_cut_in_half(refuse, adapter):
    path = adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "adapter_model.safetensors is damaged" in refuse(f"experts.global_edit.adapter={adapter}")


def test_adapter_without_weights(refuse, tmp_path):
    assert "holds 0 adapters: adapter_model.safetensors, pytorch_lora_weights.safetensors or one other" in refuse(
        f"experts.global_edit.adapter={tmp_path}"
    )
