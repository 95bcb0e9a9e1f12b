"""A scene network twice as wide that computes what it computed: a large network starts where a smaller one has arrived.

Net2Net (Chen et al., arXiv 1511.05641): every channel stands there twice, and what reads channels weighs each copy with half
of the weight. The halves differ by a random amount that cancels while the copies are equal, so that they don't stay equal.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from fields.scene.transformer import SceneTransformer, time_features

_DIFFERENCE = 0.5  # standard deviation of what the halves differ by, as a share of a weight's own


def widened(network: SceneTransformer, seed: int) -> SceneTransformer:
    """The same function of (x_t, t, words, source), but for the time, which more frequencies describe: that is fitted.

    Args:
        network: is left as it is.
        seed: of what the copies differ by.
    """
    width, depth, heads = (network.config[name] for name in ("width", "depth", "heads"))
    wide = SceneTransformer(2 * width, depth, 2 * heads)
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, tensor in network.state_dict().items():
        if name == "time_in.weight":
            tensor = _other_frequencies(tensor, width)
            tensors[name] = _rows_twice(tensor, 1)
        elif name in ("words.weight", "word_places", "groups", "cell_places"):
            tensors[name] = torch.cat([tensor, tensor], dim=-1)
        elif "norm_q" in name or "norm_k" in name or name == "patch_out.bias":  # a head and an image are as wide as before
            tensors[name] = tensor
        else:
            parts = tensor.shape[0] // width if "ff_in" not in name else 1
            rows = tensor if name == "patch_out.weight" else _rows_twice(tensor, parts)
            reads_channels = tensor.ndim > 1 and name != "patch_in.weight"
            tensors[name] = _columns_twice(rows, generator) if reads_channels else rows
    wide.load_state_dict(tensors)
    return wide


def _rows_twice(tensor: Tensor, parts: int) -> Tensor:
    """(parts * channels, ...) -> (parts * 2 channels, ...): each part's channels, then the same again."""
    split = tensor.unflatten(0, (parts, -1))
    return torch.cat([split, split], dim=1).flatten(0, 1)


def _columns_twice(weight: Tensor, generator: torch.Generator) -> Tensor:
    """(out, in, ...) -> (out, 2 in, ...): halves that add up to the weight."""
    difference = torch.randn(weight.shape, generator=generator) * weight.std() * _DIFFERENCE / 2
    return torch.cat([weight / 2 + difference, weight / 2 - difference], dim=1)


def _other_frequencies(weight: Float[Tensor, "width width"], width: int) -> Float[Tensor, "width 2*width"]:
    """The weight over twice as many frequencies of t that comes nearest over [0, 1], by least squares."""
    t = torch.linspace(0, 1, 4001, dtype=torch.float64)
    old, new = time_features(t, width), time_features(t, 2 * width)
    ridge = torch.eye(2 * width, dtype=torch.float64) * 1e-6 * len(t)
    return torch.linalg.solve(new.T @ new + ridge, new.T @ old @ weight.double().T).T.float()
