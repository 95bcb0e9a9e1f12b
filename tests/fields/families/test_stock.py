"""Each family against the oracle: the model's own `diffusers` pipeline, from the same noise, step by step.

Everything is float32; a state may differ from the pipeline's by 1e-5 of its norm, which is what other batch sizes and
paddings cost.
"""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_pipelines import SIZE, Tiny, build, flux2_dev, qwen_image_edit_plus

from fields.carriers import Condition
from fields.data.images import decode_image, encode_png, to_bytes
from fields.data.rows import Row
from fields.method.rollout import rollout
from fields.method.solver import Euler
from fields.operators import Expression, Guidance, Network, evaluate

STEPS = 5
SELF = Network("self")
WIDTH, HEIGHT = SIZE.image
PROMPTS = ("a red cat on a blue square", "make the dog bright")
NEGATIVES = ("dark", "a green circle under the bright cat")


def source(seed: int) -> bytes:
    return encode_png(np.random.default_rng(seed).random((3, HEIGHT, WIDTH), dtype=np.float32))


def rows(sources: int = 0, negatives: tuple[str | None, str | None] = NEGATIVES) -> list[Row]:
    """Two rows, each with so many source images of its own."""
    images = [[source(2 * k + n) for k in range(sources)] for n in range(2)]
    return [
        Row(f"u{n}", "task", PROMPTS[n], own[0] if own else None, negative_prompt=negatives[n], more_sources=tuple(own[1:]))
        for n, own in enumerate(images)
    ]


def ours(tiny: Tiny, rows: list[Row], expression: Expression, noise: torch.Tensor) -> list[torch.Tensor]:
    """Our states after each step."""

    def velocity(x_t: torch.Tensor, t: torch.Tensor, condition: Condition) -> torch.Tensor:
        return evaluate(expression, {"self": partial(tiny.family.velocity, tiny.network)}, x_t, t, condition)

    grid, condition = tiny.family.grid(SIZE, STEPS), tiny.family.encode(rows)
    every = torch.arange(1, STEPS + 1).expand(len(rows), -1)
    return list(rollout(velocity, noise, grid, every, condition, Euler()))


def stock(tiny: Tiny, noise: torch.Tensor, **arguments) -> list[torch.Tensor]:
    """The pipeline's states after each step, as (batch, c, h, w)."""
    states = []

    def note(pipeline, step, t, tensors):
        states.append(tensors["latents"].clone())
        return tensors

    packed = noise[:, :, None] if tiny.family.name == "wan" and noise.ndim == 4 else noise
    if tiny.family.name in ("flux", "qwen_image", "qwen_image_edit"):
        packed = tiny.stock._pack_latents(noise, *noise.shape)
    tiny.stock(
        height=HEIGHT, width=WIDTH, num_inference_steps=STEPS, latents=packed, output_type="latent", callback_on_step_end=note,
        **arguments,
    )  # fmt: skip
    if tiny.family.name == "flux2":
        return [state.transpose(1, 2).reshape(noise.shape) for state in states]
    if packed.ndim == 3:
        states = [tiny.stock._unpack_latents(state, HEIGHT, WIDTH, tiny.stock.vae_scale_factor) for state in states]
    return [state.reshape(noise.shape) for state in states]


def noise_of(tiny: Tiny, count: int = 2) -> torch.Tensor:
    return torch.randn(count, *tiny.family.latent_shape(), generator=torch.Generator().manual_seed(0))


def assert_same(mine: list[torch.Tensor], theirs: list[torch.Tensor]) -> None:
    assert len(mine) == len(theirs) == STEPS
    for step, (a, b) in enumerate(zip(mine, theirs, strict=True)):
        assert (a - b).norm() < 1e-5 * b.norm(), f"step {step}: {(a - b).norm() / b.norm():.2e}"


UNGUIDED = {
    "sd3": {"guidance_scale": 1.0},
    "flux": {"guidance_scale": 3.5},
    "flux2": {"guidance_scale": 1.0},
    "qwen_image": {"true_cfg_scale": 1.0},
    "z_image": {"guidance_scale": 0.0},
    "z_image_omni": {"guidance_scale": 0.0},
    "lumina2": {"guidance_scale": 1.0},
    "sana": {"guidance_scale": 1.0, "use_resolution_binning": False},
    "auraflow": {"guidance_scale": 1.0},
    "wan": {"guidance_scale": 1.0, "num_frames": 1},
}


@pytest.mark.parametrize("name", UNGUIDED)
def test_rollout_equals_the_pipeline(tiny, name):
    model = tiny(name)
    noise = noise_of(model)
    assert_same(ours(model, rows(), SELF, noise), stock(model, noise, prompt=list(PROMPTS), **UNGUIDED[name]))


GUIDED = {
    "sd3": {"guidance_scale": 3.0},
    "qwen_image": {"true_cfg_scale": 3.0},
    "z_image": {"guidance_scale": 3.0},
    "z_image_omni": {"guidance_scale": 3.0},
    "lumina2": {"guidance_scale": 3.0},
    "sana": {"guidance_scale": 3.0, "use_resolution_binning": False},
    "auraflow": {"guidance_scale": 3.0},
    "wan": {"guidance_scale": 3.0, "num_frames": 1},
}


@pytest.mark.parametrize("name", GUIDED)
def test_guided_rollout_equals_the_pipeline(tiny, name):
    """The same number means the same to both, negative prompts included."""
    model = tiny(name)
    noise = noise_of(model)
    expected = stock(model, noise, prompt=list(PROMPTS), negative_prompt=list(NEGATIVES), **GUIDED[name])
    assert_same(ours(model, rows(), model.family.guidance(SELF, 3.0, "negative"), noise), expected)


@pytest.mark.parametrize("frames", [5, 9])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_clip_s_rollout_equals_the_pipeline(tiny, frames, scale):
    model = tiny("wan")
    clips = [replace(row, frames=frames) for row in rows()]
    shape = model.family.latent_shape(model.family.size(clips[0]))
    assert shape == (4, 1 + frames // 4, HEIGHT // 8, WIDTH // 8)
    noise = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    guided = {"guidance_scale": scale, "negative_prompt": list(NEGATIVES)}
    expected = stock(model, noise, prompt=list(PROMPTS), num_frames=frames, **guided)
    operator = model.family.guidance(SELF, scale, "negative") if scale > 1 else SELF
    assert_same(ours(model, clips, operator, noise), expected)


def test_flux_is_told_its_distilled_guidance(tiny):
    model = tiny("flux")
    noise = noise_of(model)
    assert_same(
        ours(model, rows(), model.family.guidance(SELF, 7.0), noise),
        stock(model, noise, prompt=list(PROMPTS), guidance_scale=7.0),
    )


def test_flux_with_true_guidance_on_top(tiny):
    model = tiny("flux")
    noise = noise_of(model)
    expected = stock(model, noise, prompt=list(PROMPTS), negative_prompt=list(NEGATIVES), true_cfg_scale=2.0)
    assert_same(ours(model, rows(), Guidance(SELF, 2.0, prompt="negative"), noise), expected)


def test_flux2_klein_is_guided_away_from_no_prompt(tiny):
    model = tiny("flux2")
    noise = noise_of(model)
    expected = stock(model, noise, prompt=list(PROMPTS), guidance_scale=3.0)
    assert_same(ours(model, rows(negatives=(None, None)), model.family.guidance(SELF, 3.0), noise), expected)


def pictures(row: Row) -> Image.Image | list[Image.Image]:
    """As the pipelines take them: an image, or a list of several."""
    images = [Image.fromarray(to_bytes(decode_image(image, row.uid))) for image in row.sources]
    return images if len(images) > 1 else images[0]


def edited_by_stock(model: Tiny, noise: torch.Tensor, edits: list[Row], **arguments) -> list[torch.Tensor]:
    """One row at a time: all images that a pipeline is given are of one row."""
    alone = [
        stock(
            model,
            noise[n : n + 1],
            prompt=row.prompt,
            image=pictures(row),
            **{key: value[n] for key, value in arguments.items()},
        )
        for n, row in enumerate(edits)
    ]
    return [torch.cat(states) for states in zip(*alone, strict=True)]


@pytest.fixture
def kontext(tiny):
    """Stock Kontext over the components of the FLUX.1 pipeline."""
    from diffusers import FluxKontextPipeline

    model = tiny("flux")
    pipeline = FluxKontextPipeline(**model.stock.components)
    pipeline.set_progress_bar_config(disable=True)
    return Tiny(pipeline, model.folder, model.family, model.network)


def test_kontext_edits_like_the_pipeline(kontext):
    noise, edits = noise_of(kontext), rows(1)
    expected = edited_by_stock(
        kontext, noise, edits, guidance_scale=[2.5, 2.5], _auto_resize=[False, False], max_area=[WIDTH * HEIGHT] * 2
    )
    assert_same(ours(kontext, edits, kontext.family.guidance(SELF, 2.5), noise), expected)


@pytest.mark.parametrize("sources", [1, 3])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_flux2_edits_like_the_pipeline(tiny, scale, sources):
    model = tiny("flux2")
    noise, edits = noise_of(model), rows(sources, negatives=(None, None))
    expected = edited_by_stock(model, noise, edits, guidance_scale=[scale, scale])
    assert_same(ours(model, edits, model.family.guidance(SELF, scale), noise), expected)


def test_flux2_dev_is_told_its_distilled_guidance(tmp_path):
    model = build("flux2", flux2_dev(), tmp_path)
    noise, edits = noise_of(model), rows(1)
    for operator, scale in ((SELF, 4.0), (model.family.guidance(SELF, 2.0), 2.0)):
        expected = edited_by_stock(model, noise, edits, guidance_scale=[scale, scale])
        assert_same(ours(model, edits, operator, noise), expected)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_qwen_image_edits_like_the_pipeline(tiny, scale, monkeypatch):
    """The pipeline wants a source of about 1024 x 1024; here that area is the rows' own."""
    module = "diffusers.pipelines.qwenimage.pipeline_qwenimage_edit.calculate_dimensions"
    monkeypatch.setattr(module, lambda area, ratio: (WIDTH, HEIGHT, None))
    model = tiny("qwen_image_edit")
    noise, edits = noise_of(model), rows(1)
    expected = edited_by_stock(model, noise, edits, true_cfg_scale=[scale, scale], negative_prompt=list(NEGATIVES))
    operator = model.family.guidance(SELF, scale, "negative") if scale > 1 else SELF
    assert_same(ours(model, edits, operator, noise), expected)


@pytest.mark.parametrize("sources", [1, 3])
def test_qwen_image_edit_plus_edits_like_the_pipeline(tmp_path, monkeypatch, sources):
    """It shows its text encoder another size of the source than its network."""
    module = "diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_plus"
    monkeypatch.setattr(f"{module}.VAE_IMAGE_SIZE", WIDTH * HEIGHT)
    monkeypatch.setattr(f"{module}.CONDITION_IMAGE_SIZE", 32 * 64)
    model = build("qwen_image_edit", qwen_image_edit_plus(), tmp_path)
    noise, edits = noise_of(model), rows(sources)
    expected = edited_by_stock(model, noise, edits, true_cfg_scale=[3.0, 3.0], negative_prompt=list(NEGATIVES))
    assert_same(ours(model, edits, model.family.guidance(SELF, 3.0, "negative"), noise), expected)


@pytest.mark.parametrize("sources", [1, 3])
@pytest.mark.parametrize("scale", [0.0, 3.0])
def test_z_image_omni_edits_like_the_pipeline(tiny, scale, sources, monkeypatch):
    """The pipeline encodes its source in bfloat16 whatever it computes in; here both do in float32."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.float)
    model = tiny("z_image_omni")
    noise, edits = noise_of(model), rows(sources)
    expected = edited_by_stock(model, noise, edits, guidance_scale=[scale, scale], negative_prompt=list(NEGATIVES))
    operator = model.family.guidance(SELF, scale, "negative") if scale else SELF
    assert_same(ours(model, edits, operator, noise), expected)


def test_the_order_of_source_images_matters(tiny):
    for name in ("flux2", "z_image_omni"):
        model, (first, _) = tiny(name), rows(2)
        other = replace(first, source_image=first.more_sources[0], more_sources=(first.source_image,))
        noise = noise_of(model, 1)
        mine, turned = (ours(model, [row], SELF, noise)[-1] for row in (first, other))
        assert (mine - turned).norm() > 1e-3 * mine.norm()
