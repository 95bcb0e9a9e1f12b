"""What is minimised."""

from jaxtyping import Float
from torch import Tensor


def velocity_mse(velocity: Float[Tensor, "batch ..."], target: Float[Tensor, "batch ..."]) -> Float[Tensor, " batch"]:
    """Each sample's mean squared difference of velocities, float32.

    DanceOPD (arXiv 2606.27377): L = mean || v_theta(sg(x_t), t, c) - v_m(sg(x_t), t, c) ||^2, unweighted in t.
    """
    return (velocity.float() - target.float()).square().flatten(1).mean(dim=1)
