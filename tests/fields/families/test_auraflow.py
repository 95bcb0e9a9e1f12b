"""AuraFlow: which sizes its network has positions for, its text where the prompt has ended, and its clean states."""

import numpy as np
import pytest
import torch
from tiny_pipelines import Tiny

from fields.data.images import encode_png, to_bytes
from fields.data.rows import Row
from fields.data.size import Size


@pytest.fixture
def model(tiny) -> Tiny:
    return tiny("auraflow")


def sized(width: int, height: int) -> Row:
    return Row("u7", "task", "a red cat", width=width, height=height)


def has_positions(model: Tiny, width: int, height: int) -> bool:
    """Whether each patch of an image finds a position of its own in the rows and columns of the network's 8 x 8."""
    _, rows, columns = model.family.latent_shape(Size(width, height))
    found = model.network.pos_embed.pe_selection_index_based_on_dim(rows, columns).reshape(rows // 2, columns // 2)
    inside = bool(((found >= 0) & (found < 64)).all())
    return inside and bool((found // 8 == found[:, :1] // 8).all() and (found % 8 == found[:1] % 8).all())


@pytest.mark.parametrize("width", range(16, 193, 16))
def test_a_row_is_refused_where_the_network_has_no_position_for_a_patch(model, width):
    for size in ((width, 64), (64, width), (width, 128)):
        if has_positions(model, *size):
            model.family.check_row(sized(*size))
        else:
            message = rf"^row 'u7': its size is {size[0]} x {size[1]}; this network has positions for sides of 128 at most$"
            for check in (model.family.check_row, lambda bad: model.family.encode([bad])):
                with pytest.raises(ValueError, match=message):
                    check(sized(*size))


def test_sides_that_are_no_multiples_are_named_first(model):
    with pytest.raises(ValueError, match=r"its size is 200 x 64; sides are multiples of 16$"):
        model.family.check_row(sized(200, 64))


def test_text_is_zero_where_the_prompt_has_ended(model):
    """The pipeline has encoded the padding, too, with a mask; the network would read what it made of it."""
    (text,) = model.family.encode([sized(64, 64)]).tensors["text"]
    assert text.shape == (256, 32)
    assert text[:5].abs().sum(dim=1).min() > 0.1, "three words and two marks"
    assert torch.equal(text[5:], torch.zeros(251, 32))


def test_a_clean_state_is_the_vae_s_own_scaled(model):
    """No pipeline of AuraFlow encodes an image: the VAE's mean, by what the pipeline divides by to decode."""
    image = np.random.default_rng(0).random((3, 96, 64), dtype=np.float32)
    pixels = torch.from_numpy(to_bytes(image)).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        expected = model.stock.vae.encode(pixels).latent_dist.mean * 0.13025
    (found,) = model.family.clean([Row("u7", "task", "a red cat", target_image=encode_png(image))])
    torch.testing.assert_close(found, expected[0])
