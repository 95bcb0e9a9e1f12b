import numpy as np
import pytest
import torch

from fields.scene.transformer import SMALLEST_T, SceneTransformer, _patches, _unpatch
from fields.scene.world import split_cells


@pytest.fixture(scope="module")
def network(new_base):
    return new_base()


@pytest.fixture(scope="module")
def batch(states, encoded):
    condition = encoded("local_edit", 4)
    return states, torch.tensor([1.0, 0.7, 0.4, 0.1]), condition.tensors["words"], condition.tensors["source"]


def change(one, other):
    """Relative, the mean over the rows."""
    return ((one - other).flatten(1).norm(dim=1) / other.flatten(1).norm(dim=1)).mean().item()


@pytest.mark.parametrize("with_source", [False, True])
def test_a_row_does_not_depend_on_its_batch(network, batch, with_source):
    inputs = batch if with_source else batch[:3]
    together = network(*inputs)
    for row in range(4):
        alone = network(*(tensor[row : row + 1] for tensor in inputs))
        torch.testing.assert_close(alone[0], together[row], rtol=1e-4, atol=1e-4)


def test_every_input_matters(network, batch):
    """Each by more than a hundredth of the velocity: of a network that ignores its conditions nothing can be learned."""
    x_t, t, words, source = batch
    velocity = network(*batch)
    assert change(network(x_t, t, words.roll(1, dims=0), source), velocity) > 0.01
    assert change(network(x_t, t, torch.zeros_like(words), source), velocity) > 0.01
    assert change(network(x_t, t, words, source.roll(1, dims=0)), velocity) > 0.01
    assert change(network(x_t, t, words), velocity) > 0.01
    assert change(network(x_t + 0.1, t, words, source), velocity) > 0.01


def test_the_prompts_word_order_matters(network, batch):
    x_t, t, words, source = batch
    assert change(network(x_t, t, words.flip(1), source), network(*batch)) > 0.005


def test_a_prompt_is_its_own_rows(network, batch):
    x_t, t, words, source = batch
    other = words.clone()
    other[2] = other[0]
    changed = (network(x_t, t, other, source) - network(*batch)).flatten(1).abs().max(dim=1).values
    assert changed[2] > 1e-3
    assert changed[[0, 1, 3]].max() == 0


def clean(network, x_t, t, words, source):
    """The predicted clean image, x_0 = x_t - max(t, smallest) v."""
    return x_t - t.clamp(min=SMALLEST_T)[:, None, None, None] * network(x_t, t, words, source)


def test_time_changes_the_predicted_clean_image(network, batch):
    x_t, _, words, source = batch
    late, early = (clean(network, x_t, torch.full((4,), t), words, source) for t in (0.3, 0.9))
    assert change(late, early) > 0.01


@pytest.mark.parametrize("t", [0.0, 1e-6, 0.01, SMALLEST_T])
def test_the_velocity_of_a_nearly_clean_state_is_bounded(network, batch, t):
    """|v| <= (|x_t| + |x_0|) / SMALLEST_T, and |x_0| is that of an ordinary t."""
    x_t, _, words, source = batch
    velocity = network(x_t, torch.full((4,), t), words, source)
    x_0 = clean(network, x_t, torch.full((4,), 0.5), words, source)
    assert velocity.abs().max() < 2 * (x_t.abs().max() + x_0.abs().max()) / SMALLEST_T


def test_the_velocity_is_the_way_from_the_clean_image_over_t(batch):
    """A new network predicts x_0 = 0 (its output layer is zero), so v = x_t / max(t, smallest)."""
    x_t, _, words, source = batch
    t = torch.tensor([1.0, 0.5, 0.1, 0.01])
    network = SceneTransformer(width=16, depth=1, heads=2)
    expected = x_t.double() / torch.tensor([1.0, 0.5, 0.1, SMALLEST_T], dtype=torch.float64)[:, None, None, None]
    torch.testing.assert_close(network(x_t, t, words, source).double(), expected, rtol=1e-6, atol=1e-6)


def test_one_token_is_one_cell():
    image = torch.arange(2 * 3 * 24 * 24, dtype=torch.float32).view(2, 3, 24, 24)
    patches = _patches(image)
    for tokens, one in zip(patches, image, strict=True):
        assert np.array_equal(tokens.numpy(), split_cells(one.numpy()).reshape(9, 192))
    assert torch.equal(_unpatch(patches), image)


def test_every_trainable_tensor_gets_a_gradient(new_base, batch):
    network = new_base().requires_grad_(True)
    network(*batch).square().mean().backward()
    dead = [name for name, parameter in network.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert dead == []
