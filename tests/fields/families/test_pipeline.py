"""What the families of pipelines share: parts load alone, rows encode alone, conditions matter, and bad input is named."""

import json
import shutil
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from family_rows import png, row
from tiny_pipelines import PIPELINES, SIZE, Tiny

from fields.carriers import Condition, Variant
from fields.data.size import Size
from fields.memory.cost import Pass
from fields.memory.rehearsal import rehearse_forward
from fields.operators import Network, evaluate
from fields.registry import FAMILIES

WIDTH, HEIGHT = SIZE.image


EDITORS = ("flux", "flux2", "qwen_image_edit", "z_image_omni")


def velocity(model, *conditions: Condition) -> torch.Tensor:
    condition = Condition.concatenate(list(conditions))
    x_t = torch.randn(1, *model.family.latent_shape(), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.family.velocity(
            model.network, x_t.expand(len(condition), *x_t.shape[1:]), torch.full((len(condition),), 0.75), condition
        )


def difference(velocities: torch.Tensor) -> float:
    return float((velocities[1] - velocities[0]).norm() / velocities[0].norm())


@pytest.mark.parametrize("name", PIPELINES)
def test_another_prompt_is_another_velocity(tiny, name):
    model = tiny(name)
    conditions = [model.family.encode([row(model.family, prompt)]) for prompt in ("a red cat", "the blue dog under a square")]
    assert difference(velocity(model, *conditions)) > 0.01


@pytest.mark.parametrize("name", PIPELINES)
def test_another_negative_prompt_is_another_unconditional_branch(tiny, name):
    model = tiny(name)
    conditions = [model.family.encode([row(model.family, negative_prompt=text)]) for text in ("dark", "the blue dog on it")]
    negative, empty = Variant(prompt="negative"), Variant(prompt="empty")
    assert difference(velocity(model, *conditions)) < 1e-5
    assert difference(velocity(model, *(condition.variant(negative) for condition in conditions))) > 0.01
    assert difference(velocity(model, conditions[0].variant(negative), conditions[0].variant(empty))) > 0.01


@pytest.mark.parametrize("name", PIPELINES)
def test_the_empty_prompt_is_encoded_once_unless_the_text_sees_the_source(tiny, name, monkeypatch):
    """To the bits that each row would have by itself; a row with a source image may have another template."""
    family = FAMILIES[name](tiny(name).folder, size=SIZE)
    encoded: list[str] = []
    negative_text = family.negative_text
    monkeypatch.setattr(
        family, "negative_text", lambda prompt, sources: encoded.append(prompt) or negative_text(prompt, sources)
    )
    sources = {"none": (None,), "optional": (None, 1, 2), "required": (1, 2)}[family.source]
    rows = [row(family, prompt, source) for source in sources for prompt in ("a red cat", "the blue dog")]
    conditions = [family.encode([each]) for each in rows]
    assert len(encoded) == {"none": 1, "optional": 2, "required": len(rows)}[family.source]
    for condition, each in zip(conditions, rows, strict=True):
        sources = [family._image(each, image) for image in each.sources]
        with torch.no_grad():
            expected = negative_text("", sources)
        assert condition.unconditional.keys() == expected.keys()
        assert all(torch.equal(tensor, expected[part]) for part, tensor in condition.unconditional.items())


@pytest.mark.parametrize("name", EDITORS)
def test_another_source_image_is_another_velocity(tiny, name):
    model = tiny(name)
    conditions = [model.family.encode([row(model.family, source=seed)]) for seed in (1, 2)]
    assert difference(velocity(model, *conditions)) > 0.003
    assert difference(velocity(model, *(condition.variant(Variant(prompt="empty")) for condition in conditions))) > 0.001


@pytest.mark.parametrize("name", ["flux2", "z_image_omni"])
def test_another_second_source_image_is_another_velocity_and_can_be_dropped(tiny, name):
    model = tiny(name)
    conditions = [model.family.encode([row(model.family, source=1, more_sources=(png(seed),))]) for seed in (2, 3)]
    assert difference(velocity(model, *conditions)) > 0.001
    assert difference(velocity(model, *(condition.variant(Variant(source=False)) for condition in conditions))) < 1e-6


@pytest.mark.parametrize("name", [name for name in EDITORS if name != "qwen_image_edit"])
def test_nothing_is_left_of_a_source_image_that_is_dropped(tiny, name):
    """As `edit_guidance` asks; the text of Qwen-Image-Edit has seen it."""
    model = tiny(name)
    conditions = [model.family.encode([row(model.family, source=seed)]).variant(Variant(source=False)) for seed in (1, 2)]
    assert difference(velocity(model, *conditions)) < 1e-6


@pytest.mark.parametrize("name", PIPELINES)
def test_a_row_is_encoded_as_if_it_were_alone(tiny, name):
    family = tiny(name).family
    rows = [row(family, "a red cat on a blue square"), row(family, "dog")]
    together, alone = family.encode(rows), family.encode(rows[1:])
    for key, tensor in alone.tensors.items():
        found = together.tensors[key][1:]
        assert torch.equal(found[:, : tensor.shape[1]] if tensor.ndim > 1 else found, tensor), key


@pytest.mark.parametrize("name", PIPELINES)
def test_the_model_s_own_grid_falls_from_1_to_0(tiny, name):
    grid = tiny(name).family.grid(None, 6)
    assert grid.dtype == torch.float32
    assert (len(grid), grid[0].item(), grid[-1].item()) == (7, 1.0, 0.0)
    assert (grid.diff() < 0).all()


@pytest.mark.parametrize(("name", "depends"), [("sd3", False), ("flux", True), ("flux2", True), ("qwen_image", True)])
def test_a_dynamic_shift_depends_on_the_size(tiny, name, depends):
    family = tiny(name).family
    assert torch.equal(family.grid(Size(64, 64), 6), family.grid(Size(1024, 1024), 6)) != depends
    assert torch.equal(family.grid(Size(64, 96), 6), family.grid(Size(96, 64), 6))


def test_sana_keeps_the_shift_of_the_solver_that_it_ships(tiny, tmp_path):
    """The solver's own sigmas, which it rounds to whole timesteps and starts just below 1, are the oracle."""
    from diffusers import DPMSolverMultistepScheduler

    shutil.copytree(tiny("sana").folder, tmp_path / "sana")
    solver = DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++", prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    solver.save_pretrained(tmp_path / "sana" / "scheduler")
    solver.set_timesteps(8)
    torch.testing.assert_close(FAMILIES["sana"](tmp_path / "sana").grid(None, 8), solver.sigmas, atol=2e-3, rtol=0)


@pytest.mark.parametrize("name", [name for name in PIPELINES if name != "qwen_image_edit"])
def test_decoding_gives_the_pipelines_image(tiny, name):
    model = tiny(name)
    x_0 = torch.randn(2, *model.family.latent_shape(), generator=torch.Generator().manual_seed(3)) * 0.5
    mine = model.family.decode(x_0)
    assert mine.shape == (2, 3, HEIGHT, WIDTH)
    assert mine.dtype == np.float32
    np.testing.assert_allclose(mine.clip(0, 1), _decoded_by_stock(model, x_0), atol=2e-5)


def _decoded_by_stock(model, x_0: torch.Tensor) -> np.ndarray:
    """The pipeline's images when its last step ends at x_0."""
    last = x_0
    if model.family.name.startswith(("flux", "qwen")):
        last = x_0.flatten(2).transpose(1, 2) if model.family.name == "flux2" else model.stock._pack_latents(x_0, *x_0.shape)
    if model.family.name == "wan":
        frames = model.stock(
            height=HEIGHT, width=WIDTH, num_frames=1, num_inference_steps=2, output_type="np", prompt=["a", "a"],
            callback_on_step_end=lambda pipeline, step, t, tensors: {"latents": x_0[:, :, None]},
        ).frames  # fmt: skip
        return frames[:, 0].transpose(0, 3, 1, 2)
    arguments = {"use_resolution_binning": False} if model.family.name == "sana" else {}
    return _call(model, last, prompt=["a", "a"], **arguments).transpose(0, 3, 1, 2)


def _call(model, last: torch.Tensor, **arguments) -> np.ndarray:
    return model.stock(
        height=HEIGHT, width=WIDTH, num_inference_steps=2, output_type="np",
        callback_on_step_end=lambda pipeline, step, t, tensors: {"latents": last}, **arguments,
    ).images  # fmt: skip


def test_a_model_that_was_distilled_to_do_without_has_no_guidance(copy):
    folder = copy("flux2")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "is_distilled": True}))
    with pytest.raises(ValueError, match="was distilled to do without"):
        FAMILIES["flux2"](folder).guidance(Network("self"), 3.0)


@pytest.mark.parametrize("name", ["qwen_image", "lumina2"])
def test_outside_its_interval_a_guidance_that_keeps_lengths_is_the_field_itself(tiny, name):
    model = tiny(name)
    x_t, (c, u), t = torch.randn(2, 4, 4, 6), (torch.randn(2, 4, 4, 6) for _ in range(2)), torch.tensor([0.9, 0.4])
    expression = model.family.guidance(Network("self"), 3.0, interval=(0.2, 0.5))
    condition = Condition(tensors={"n": torch.ones(2)}, unconditional={"n": torch.zeros(2)})

    def network(x_t, t, condition):
        given = condition.tensors["n"].bool()
        return torch.cat([c[: int(given.sum())], u[: int((~given).sum())]])

    v = evaluate(expression, {"self": network}, x_t, t, condition)
    torch.testing.assert_close(v[0], c[0])
    assert not torch.allclose(v[1], c[1])
    guided = (u + 3 * (c - u))[1]
    if name == "lumina2":  # a row of a channel is as long as in v_c
        torch.testing.assert_close(v[1].norm(dim=-1), c[1].norm(dim=-1))
        torch.testing.assert_close(v[1] / v[1].norm(dim=-1, keepdim=True), guided / guided.norm(dim=-1, keepdim=True))


def test_a_network_that_is_told_its_guidance_has_no_interval(tiny):
    with pytest.raises(ValueError, match=r"interval \[0.2, 0.5\]: family flux takes one guidance scale for every t"):
        tiny("flux").family.guidance(Network("self"), 3.0, interval=(0.2, 0.5))


@pytest.mark.parametrize("name", PIPELINES)
def test_a_target_image_is_a_clean_state_in_the_size_of_its_row(tiny, name):
    """It is what an editor's network sees of a source image, which the stock pipelines are compared with."""
    family = tiny(name).family
    rows = [row(family, target_image=png(seed), width=HEIGHT, height=WIDTH) for seed in (1, 2)]
    x_0 = family.clean(rows)
    assert x_0.shape == (2, *family.latent_shape(Size(HEIGHT, WIDTH)))
    assert x_0.dtype == torch.float32
    assert not torch.allclose(x_0[0], x_0[1])
    if family.source != "none":
        edits = [row(family, source_image=png(seed), width=HEIGHT, height=WIDTH) for seed in (1, 2)]
        condition = family.encode(edits)
        assert torch.equal(condition.tensors["source"], x_0)
        assert "source" not in condition.variant(Variant(source=False)).tensors
    with pytest.raises(ValueError, match="row 'u7' has no target_image"):
        family.clean([row(family)])


def test_a_hub_id_that_was_downloaded_needs_no_network(tiny, tmp_path, monkeypatch):
    model = tiny("z_image")
    cached = tmp_path / "models--some--model"
    shutil.copytree(model.folder, cached / "snapshots" / "0123")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0123")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    hub_id = Path("some/model")
    family = FAMILIES["z_image"](hub_id, size=SIZE)
    network = family.load_transformer(hub_id)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), model.network.parameters(), strict=True))
    found, expected = (kind.encode([row(model.family)]).tensors["text"] for kind in (family, model.family))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["sd3", "qwen_image", "z_image"])
def test_bfloat16_networks_keep_float32_states(tiny, name):
    model = tiny(name)
    family = FAMILIES[name](model.folder, torch.bfloat16, SIZE)
    low = Tiny(model.stock, model.folder, family, family.load_transformer(model.folder))
    assert {parameter.dtype for parameter in low.network.parameters()} == {torch.bfloat16}
    condition = family.encode([row(family)])
    assert condition.tensors["text"].dtype == torch.bfloat16
    low_velocity, high_velocity = velocity(low, condition), velocity(model, model.family.encode([row(family)]))
    assert low_velocity.dtype == torch.float32
    assert 0 < (low_velocity - high_velocity).norm() < 0.1 * high_velocity.norm()


@pytest.mark.parametrize("name", PIPELINES)
def test_every_family_can_rehearse_its_widest_inputs(tiny, name):
    """With values, on the real network: what the meta device accepts, a kernel may refuse."""
    model = tiny(name)
    for edits in {"none": (False,), "required": (True,), "optional": (False, True)}[model.family.source]:
        rehearse_forward(model.family, model.network, Pass(2, SIZE, edits), torch.device("cpu"))
