"""How far the student that rolls out is from the student that learns, at the same version."""

from jaxtyping import Float
from torch import Tensor

_NOTHING = 1e-30  # a student that equals the base has no effect to divide by


def mismatch(
    rolled_out: Float[Tensor, "batch ..."], learned: Float[Tensor, "batch ..."], base: Float[Tensor, "batch ..."]
) -> float:
    """|v_rolled_out - v_learned| / |v_learned - v_base| at the same states; 0 is none, and 1 is as far as the base is.

    It is the share of its effect that an adapter loses where it is merged into a network of low precision.

    >>> import torch
    >>> mismatch(torch.tensor([[1.0, 5.0]]), torch.tensor([[1.0, 4.0]]), torch.tensor([[1.0, 0.0]]))
    0.25
    """
    error, effect = ((one.double() - learned.double()).norm().item() for one in (rolled_out, base))
    return error / max(effect, _NOTHING)
