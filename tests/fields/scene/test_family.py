import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fields.data.images import decode_image, encode_png
from fields.data.rows import Row
from fields.registry import FAMILIES
from fields.scene.exam import task_row
from fields.scene.family import SceneFamily, save_transformer
from fields.scene.grammar import draw_task, tokenize
from fields.scene.transformer import SceneTransformer
from fields.scene.world import render


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    save_transformer(SceneTransformer(width=16, depth=1, heads=2), tmp_path / "model")
    return tmp_path / "model"


def test_it_is_registered_under_its_name():
    assert FAMILIES["scene"] is SceneFamily
    assert all(family.name == name for name, family in FAMILIES.items())


def test_a_saved_model_is_read_back_to_float16(family, tmp_path):
    torch.manual_seed(1)
    transformer = SceneTransformer(width=16, depth=1, heads=2)
    save_transformer(transformer, tmp_path)
    loaded = family.load_transformer(tmp_path)
    assert loaded.config == {"width": 16, "depth": 1, "heads": 2}
    for name, tensor in transformer.state_dict().items():
        assert loaded.state_dict()[name].dtype == torch.float32
        assert torch.equal(loaded.state_dict()[name], tensor.half().float())


def test_a_loaded_model_is_frozen_and_in_evaluation_mode(family, folder):
    loaded = family.load_transformer(folder)
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(family, folder, name):
    (folder / name).unlink()
    with pytest.raises(ValueError, match=f"is no scene model: it has no {name}"):
        family.load_transformer(folder)


def test_tensors_that_do_not_fit_are_named_with_their_shapes(family, folder):
    path = folder / "model.safetensors"
    good = load_file(path)
    for change, message in (
        ({"patch_out.bias": torch.zeros(7)}, r"patch_out.bias is \(7,\), wanted \(192,\)"),
        ({"zebra": torch.zeros(2)}, r"zebra is \(2,\), wanted none"),
    ):
        save_file(good | change, path)
        with pytest.raises(ValueError, match=message):
            family.load_transformer(folder)
    save_file({name: tensor for name, tensor in good.items() if name != "groups"}, path)
    with pytest.raises(ValueError, match=r"groups is absent, wanted \(3, 16\)"):
        family.load_transformer(folder)


@pytest.mark.parametrize("damage", [lambda b: b[:-5], lambda b: b"", lambda b: b"\xff" * 64])
def test_damaged_tensors_are_a_value_error(family, folder, damage):
    path = folder / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match="model"):
        family.load_transformer(folder)


@pytest.mark.parametrize("config", [{"width": 16}, {"width": 16, "depth": 1, "heads": 2, "colour": "red"}, [1]])
def test_a_foreign_configuration_is_a_value_error(family, folder, config):
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="model"):
        family.load_transformer(folder)


def edit_rows(count):
    return [task_row(f"u{n}", draw_task("add", np.random.default_rng(n))) for n in range(count)]


def test_encoding_is_the_words_and_the_source_between_minus_1_and_1(family):
    rows = edit_rows(3)
    condition = family.encode(rows)
    assert len(condition) == 3
    for n, row in enumerate(rows):
        assert condition.tensors["words"][n].tolist() == tokenize(row.prompt).tolist()
        np.testing.assert_allclose(condition.tensors["source"][n], decode_image(row.source_image, "u") * 2 - 1, atol=1e-6)
    assert condition.tensors["source"].min() < 0
    assert condition.unconditional["words"].tolist() == [[0] * 9] * 3
    assert condition.unconditional.keys() == {"words"}


def test_text_to_image_has_no_source(family):
    assert family.encode([Row("u", "single", "a circle on white")]).tensors.keys() == {"words"}


def test_rows_with_and_without_source_are_no_batch(family):
    with pytest.raises(ValueError, match="'u0' has one"):
        family.encode([Row("t", "single", "a circle on white"), *edit_rows(1)])


def test_a_source_of_another_size_is_named(family):
    row = Row("u9", "add", "remove the red circle", encode_png(np.zeros((3, 16, 32), np.float32)))
    with pytest.raises(ValueError, match="row 'u9': its source image is 32 x 16, not 24 x 24"):
        family.encode([row])


@pytest.mark.parametrize("row", [Row("u8", "single", "a hexagon"), Row("u8", "add", "make it negative", b"junk")])
def test_a_row_that_cannot_be_encoded_is_named(family, row):
    """`Family.encode` promises the row's name: a bucket has thousands."""
    with pytest.raises(ValueError, match="u8"):
        family.encode([row])


def test_velocity_gives_the_network_its_words_and_source(family, new_base, encoded, states):
    network, t = new_base(), torch.tensor([0.9, 0.6, 0.3, 0.1])
    edit, text = encoded("local_edit", 4), encoded("text_to_image", 4)
    with_source = network(states, t, edit.tensors["words"], edit.tensors["source"])
    assert torch.equal(family.velocity(network, states, t, edit), with_source)
    assert torch.equal(family.velocity(network, states, t, text), network(states, t, text.tensors["words"]))


def test_decode_is_the_inverse_of_the_states_range(family):
    image = render(draw_task("count", np.random.default_rng(0)).target)
    decoded = family.decode(torch.from_numpy(image * 2 - 1)[None])
    assert decoded.dtype == np.float32
    np.testing.assert_allclose(decoded[0], image, atol=1e-6)
    assert family.decode(torch.full((1, 3, 24, 24), 1.5)).max() == 1.25, "overshoot is left to the checker"


def test_a_row_of_another_size_is_refused_before_anything_is_loaded(family):
    row = Row("u7", "count", "a circle on white", width=512, height=256)
    with pytest.raises(ValueError, match="row 'u7': its size is 512 x 256; scenes are 24 x 24"):
        family.check_row(row)


def test_clean_states_are_the_target_images_between_minus_1_and_1(family):
    image = render(draw_task("count", np.random.default_rng(0)).target)
    row = Row("u", "count", "a circle on white", target_image=encode_png(image))
    x_0 = family.clean([row, row])
    assert x_0.shape == (2, 3, 24, 24)
    np.testing.assert_allclose(family.decode(x_0)[1], image, atol=1 / 255)
    with_clean = family.with_clean(family.encode([row, row]), [row, row])
    assert torch.equal(with_clean.clean, x_0)


@pytest.mark.parametrize(
    ("target", "message"),
    [(None, "row 'u7' has no target_image"), (encode_png(np.zeros((3, 16, 32), np.float32)), "its target image is 32 x 16")],
)
def test_a_row_without_a_clean_state_is_named(family, target, message):
    with pytest.raises(ValueError, match=message):
        family.clean([Row("u7", "count", "a circle on white", target_image=target)])


def test_negative_prompts_are_words_of_their_own(family):
    rows = [Row("u", "single", "a circle on white", negative_prompt="a square on white")] * 2
    condition = family.encode(rows)
    assert condition.negative["words"][0].tolist() == tokenize("a square on white").tolist()
    assert condition.tensors["words"][0].tolist() == tokenize("a circle on white").tolist()
    assert family.encode([Row("u", "single", "a circle on white")]).negative == {}
    with pytest.raises(ValueError, match="with and without a negative prompt"):
        family.encode([*rows, Row("v", "single", "a circle on white")])
