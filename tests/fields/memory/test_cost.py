"""Memory and operations against closed forms."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fields.memory.attention import fused_attention
from fields.memory.operator_costs import OperatorCosts


def test_a_forward_counts_what_is_alive_and_what_products_cost():
    """x (10, 64) -> h (10, 256) -> y (10, 8): inputs were there before, h dies when y is there, float32."""
    with torch.device("meta"):
        first, second, x = nn.Linear(64, 256, bias=False), nn.Linear(256, 8, bias=False), torch.empty(10, 64)
    with torch.no_grad(), OperatorCosts() as costs:
        h = first(x)
        y = second(h)
        del h
        assert (costs.peak, costs.now) == (4 * 10 * (256 + 8), 4 * 10 * 8)
        del y
    assert costs.now == 0
    assert costs.flops == 2 * 10 * (64 * 256 + 256 * 8)


def test_views_and_operators_in_place_make_nothing():
    x = torch.empty(10, 64, device="meta")
    with OperatorCosts() as costs:
        y = x.view(64, 10)[:5].t()
        y.add_(1)
    assert costs.peak == 0


def test_a_backward_doubles_the_products_and_keeps_the_gradients():
    with torch.device("meta"):
        linear, x = nn.Linear(64, 256, bias=False), torch.empty(10, 64, requires_grad=True)
    with OperatorCosts() as costs:
        linear(x).sum().backward()
    assert costs.flops == 3 * 2 * 10 * 64 * 256
    assert costs.now == 4 * (64 * 256 + 10 * 64), "the gradients of weight and input"


@pytest.mark.parametrize("grouped", [1, 2])
def test_attention_keeps_no_scores_and_costs_as_flash_does(grouped):
    b, h, n, d = 2, 4, 100, 16
    q = torch.empty(b, h, n, d, device="meta", requires_grad=True)
    k, v = (torch.empty(b, h // grouped, n, d, device="meta", requires_grad=True) for _ in range(2))
    with fused_attention() as flops, OperatorCosts() as costs:
        out = F.scaled_dot_product_attention(q, k, v, enable_gqa=grouped > 1)
        assert costs.now == 4 * (b * h * n * d + b * h * n), "the output and one sum for each query"
        out.sum().backward()
    assert flops.total == 4 * b * h * n * n * d * 3.5
    assert F.scaled_dot_product_attention(torch.ones(1, 1, 1), torch.ones(1, 1, 1), torch.ones(1, 1, 1)).item() == 1
