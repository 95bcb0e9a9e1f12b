import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from fields.objective import squared_error


def fields_of(seed, *shape):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=rng), torch.randn(shape, generator=rng)


@given(st.integers(0, 999), st.integers(1, 5), st.integers(1, 6), st.integers(1, 6))
def test_each_samples_mean_square_in_float64(seed, batch, rows, columns):
    velocity, target = fields_of(seed, batch, rows, columns)
    difference = velocity.double().numpy() - target.double().numpy()
    np.testing.assert_allclose(squared_error(velocity, target).numpy(), (difference**2).mean(axis=(1, 2)), rtol=1e-5)


def test_by_hand():
    velocity = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    target = torch.tensor([[1.0, 4.0], [3.0, -1.0]])
    assert squared_error(velocity, target).tolist() == [2.0, 5.0]


def test_gradient_of_the_mean_is_twice_the_difference_over_the_elements():
    velocity, target = fields_of(0, 4, 3, 5)
    velocity.requires_grad_()
    squared_error(velocity, target).mean().backward()
    torch.testing.assert_close(velocity.grad, 2 * (velocity.detach() - target) / velocity.numel(), rtol=1e-6, atol=1e-9)


def test_bfloat16_is_computed_in_float32():
    velocity, target = (v.bfloat16() for v in fields_of(1, 3, 1000))
    loss = squared_error(velocity, target)
    assert loss.dtype == torch.float32
    exact = (velocity.double() - target.double()).square().mean(dim=1)
    np.testing.assert_allclose(loss.double().numpy(), exact.numpy(), rtol=1e-5)  # bfloat16 would be off by 1e-3
