import numpy as np
import torch

from fields.lora.adapter import LoraShape, add_lora, weight_difference
from fields.lora.regmean import Sample, regression_merge
from fields.method.plan import noise
from fields.method.rollout import clean
from fields.method.solver import Euler
from fields.method.time_grid import time_grid
from fields.tensors import load_into

GRID = time_grid(3)
MODULE = "blocks.1.ff_in"


def with_adapter(transformer, adapter):
    load_into(add_lora(transformer, adapter.shape, 0), adapter.tensors, "x")
    return transformer


def sample(new_base, encoded, route, adapter):
    transformer = with_adapter(new_base(), adapter) if adapter else new_base()
    x_T = noise(0, range(8), (3, 24, 24))
    return Sample(transformer=transformer, adapter=adapter, condition=encoded(route, 8), noise=x_T, grid=GRID)


def test_of_one_expert_it_is_the_expert(family, new_base, encoded, local_edit):
    merged = regression_merge(
        family,
        {"local": sample(new_base, encoded, "local_edit", local_edit)},
        LoraShape(48, 48.0, local_edit.shape.targets),
    )
    x = torch.randn(5, 48)
    expected = x @ weight_difference(local_edit.tensors, MODULE, local_edit.shape.scale(MODULE)).T
    found = x @ weight_difference(merged, MODULE, 1.0).T
    assert (found - expected).norm() < 0.05 * expected.norm()


def test_it_solves_the_least_squares_of_each_layer(family, new_base, encoded, local_edit, global_edit):
    """Against numpy's least squares on the stacked, equally weighted activations of both experts and the base."""
    samples = {
        "base": sample(new_base, encoded, "text_to_image", None),
        "local": sample(new_base, encoded, "local_edit", local_edit),
        "global": sample(new_base, encoded, "global_edit", global_edit),
    }
    merged = regression_merge(family, samples, LoraShape(48, 48.0, local_edit.shape.targets))
    rows, wanted = [], []
    for s in samples.values():
        inputs = []
        hook = s.transformer.get_submodule(MODULE).register_forward_pre_hook(lambda _, x, inputs=inputs: inputs.append(x[0]))
        clean(lambda x, t, c, s=s: family.velocity(s.transformer, x, t, c), s.noise, GRID, s.condition, Euler())
        hook.remove()
        x = torch.cat([i.flatten(0, -2) for i in inputs]).double().numpy()
        x = x / np.sqrt((x**2).sum())
        d = weight_difference(s.adapter.tensors, MODULE, s.adapter.shape.scale(MODULE)).double().numpy() if s.adapter else 0
        rows.append(x)
        wanted.append(x @ d.T if s.adapter else np.zeros((len(x), 192)))
    solution, *_ = np.linalg.lstsq(np.concatenate(rows), np.concatenate(wanted), rcond=None)
    x = np.concatenate(rows)
    found = x @ weight_difference(merged, MODULE, 1.0).double().numpy().T
    np.testing.assert_allclose(found, x @ solution, atol=0.02 * np.abs(x @ solution).max())
