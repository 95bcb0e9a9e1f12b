"""Clips of Wan: their states, targets and frames, the folders that are taken, and the shift of the solver that is published."""

import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import UniPCMultistepScheduler
from PIL import Image
from tiny_pipelines import SIZE, Tiny

from fields.data.images import encode_png
from fields.data.rows import Row
from fields.data.size import Size
from fields.families.latents import check_same_latents
from fields.memory.cost import Pass, encoding_cost, forward_cost
from fields.registry import FAMILIES

WIDTH, HEIGHT = SIZE.image
CLIP = Size(WIDTH, HEIGHT, 5)


def frames(count: int, seed: int = 0) -> tuple[bytes, ...]:
    made = np.random.default_rng(seed).random((count, 3, HEIGHT, WIDTH), dtype=np.float32)
    return tuple(encode_png(frame) for frame in made)


def row(**columns) -> Row:
    return Row("u7", "task", "a red cat", **columns)


@pytest.fixture
def wan(tiny) -> Tiny:
    return tiny("wan")


def test_an_image_s_state_has_no_axis_of_frames(wan):
    assert wan.family.latent_shape(SIZE) == (4, HEIGHT // 8, WIDTH // 8)
    assert wan.family.latent_shape(CLIP) == (4, 2, HEIGHT // 8, WIDTH // 8)
    assert FAMILIES["wan"](wan.folder).default_size == Size(832, 480, 81)


def test_a_target_clip_is_what_the_vae_makes_of_its_frames_normalised_as_the_pipeline_does(wan):
    targets = frames(5)
    x_0 = wan.family.clean([row(frames=5, target_frames=targets), row(frames=5, target_frames=frames(5, seed=1))])
    assert x_0.shape == (2, *wan.family.latent_shape(CLIP))
    pixels = wan.stock.video_processor.preprocess_video([[_picture(frame) for frame in targets]], height=HEIGHT, width=WIDTH)
    config = wan.stock.vae.config
    mean, deviation = (torch.tensor(config[name]).view(1, -1, 1, 1, 1) for name in ("latents_mean", "latents_std"))
    with torch.no_grad():
        expected = (wan.stock.vae.encode(pixels).latent_dist.mode() - mean) / deviation
    torch.testing.assert_close(x_0[:1], expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(x_0[0], x_0[1])


def _picture(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def test_decoding_a_clip_gives_the_pipeline_s_frames(wan):
    x_0 = torch.randn(2, *wan.family.latent_shape(CLIP), generator=torch.Generator().manual_seed(3)) * 0.5
    mine = wan.family.decode(x_0)
    assert mine.shape == (2, 3, 5, HEIGHT, WIDTH)
    theirs = wan.stock(
        height=HEIGHT, width=WIDTH, num_frames=5, num_inference_steps=2, output_type="np", prompt=["a", "a"],
        callback_on_step_end=lambda pipeline, step, t, tensors: {"latents": x_0},
    ).frames  # fmt: skip
    np.testing.assert_allclose(mine, theirs.transpose(0, 4, 1, 2, 3), atol=2e-5)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"frames": 6}, "row 'u7' asks for 6 frames; family wan makes 4 k \\+ 1: 1, 5, 9"),
        ({"frames": 5}, "row 'u7' has no target_image and no target_frames"),
        ({"target_frames": frames(5)}, "row 'u7' has a target of 5 frames and asks for 1; it must have as many"),
        ({"frames": 5, "target_image": frames(1)[0]}, "row 'u7' has a target of 1 frame and asks for 5; it must have as many"),
        ({"frames": 5, "target_frames": (*frames(4), b"junk")}, "row 'u7': the image of 4 bytes does not decode"),
    ],
)
def test_a_clip_that_cannot_be_a_target(wan, columns, message):
    with pytest.raises(ValueError, match=message):
        wan.family.check_row(row(**columns), with_target=True)


def test_an_image_family_refuses_a_clip(tiny):
    for name in ("sd3", "scene"):
        family = FAMILIES["scene"]() if name == "scene" else tiny(name).family
        family.check_row(Row("u7", "task", "a red circle", frames=1))
        with pytest.raises(ValueError, match=f"row 'u7' asks for a clip of 5 frames; family {name} makes single images"):
            family.check_row(Row("u7", "task", "a red circle", frames=5))


def test_more_frames_cost_more(wan):
    network = wan.family.blueprint(wan.folder)
    image, clip, longer = (forward_cost(wan.family, network, Pass(1, SIZE._replace(frames=n))) for n in (1, 9, 17))
    assert 0 < clip.flops - image.flops < longer.flops - clip.flops, "tokens look at all tokens"
    assert image.peak_bytes < clip.peak_bytes < longer.peak_bytes
    decoding = [encoding_cost(wan.family, Size(256, 256, n), 0) for n in (1, 9)]  # so large that the text counts for less
    assert 1.2 * decoding[0] < decoding[1]
    assert str(Pass(2, CLIP)) == "2 samples of 5 frames of 64 x 96 pixels"


def test_the_shift_is_that_of_the_solver_that_folders_name(wan, tmp_path):
    """The solver's own sigmas start just below 1, and it rounds times to whole numbers."""
    shutil.copytree(wan.folder, tmp_path / "wan")
    solver = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0)
    solver.save_pretrained(tmp_path / "wan" / "scheduler")
    solver.set_timesteps(8)
    grid = FAMILIES["wan"](tmp_path / "wan").grid(None, 8)
    torch.testing.assert_close(grid, solver.sigmas, atol=2e-3, rtol=0)
    assert not torch.allclose(grid, wan.family.grid(None, 8), atol=2e-3)


def test_a_model_of_two_networks_is_refused(wan, tmp_path):
    shutil.copytree(wan.folder, tmp_path / "wan")
    index = tmp_path / "wan" / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"boundary_ratio": 0.875}))
    with pytest.raises(ValueError, match=r"has a network above t = 0.875 and another below; family wan takes models of one"):
        FAMILIES["wan"](tmp_path / "wan").skeleton(tmp_path / "wan")


def test_qwen_image_s_vae_of_the_same_weights_is_the_same_latent_space(wan, tiny):
    check_same_latents(wan.family.latent_space, tiny("qwen_image").family.latent_space)
    images = [row(frames=1, target_image=frame) for frame in frames(2)]
    torch.testing.assert_close(wan.family.clean(images), tiny("qwen_image").family.clean(images), atol=1e-5, rtol=1e-5)


def test_a_target_that_is_two_or_of_other_frames_is_no_row():
    with pytest.raises(ValueError, match="row 'u7' has a target_image and target_frames; allowed is one of them"):
        row(target_image=b"a", target_frames=(b"b",))
    with pytest.raises(ValueError, match="row 'u7' has 2 target_frames and asks for 5 frames; it must have as many"):
        replace(row(target_frames=(b"a", b"b")), frames=5)
