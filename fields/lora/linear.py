"""A linear module with an adapter beside its weight."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class LoraLinear(nn.Module):
    """y = W x + b + scale * B A x (Hu et al., arXiv 2106.09685), computed in the type of x; A and B may be of a finer one.

    A network in bfloat16 so computes the adapter's products in bfloat16, on the matrix units, while a student's A and B are
    float32: a step of AdamW is far below what bfloat16 resolves.

    Args:
        linear: the module, frozen or not; also with quantized weights.
        rank: of the adapter. A is Gaussian with a standard deviation of 1 / rank, B is zero, both float32.
        scale: of the adapter, alpha / rank.
    """

    def __init__(self, linear: nn.Linear, rank: int, scale: float):
        super().__init__()
        self.base_layer = linear
        self.scale = scale
        self.lora_A = nn.Linear(linear.in_features, rank, bias=False)
        self.lora_B = nn.Linear(rank, linear.out_features, bias=False)
        nn.init.normal_(self.lora_A.weight, std=1 / rank)
        nn.init.zeros_(self.lora_B.weight)
        self.lora_A.to(linear.weight.device)
        self.lora_B.to(linear.weight.device)

    @property
    def weight(self) -> Float[Tensor, "outputs inputs"]:
        """The weight without the adapter: networks look up its type."""
        return self.base_layer.weight

    @property
    def bias(self) -> Float[Tensor, " outputs"] | None:
        """The module's own; an adapter has none."""
        return self.base_layer.bias

    def forward(self, x: Float[Tensor, "... inputs"]) -> Float[Tensor, "... outputs"]:
        a, b = self.lora_A.weight.to(x.dtype), self.lora_B.weight.to(x.dtype)
        return self.base_layer(x) + self.scale * functional.linear(functional.linear(x, a), b)


def as_computed(tensor: Float[Tensor, "..."], module: nn.Linear) -> Float[Tensor, "..."]:
    """A frozen adapter's tensor in the type that it is computed in: of a module's weight, if that is a floating point type.

    >>> import torch
    >>> as_computed(torch.zeros(2), nn.Linear(2, 2).bfloat16()).dtype
    torch.bfloat16
    """
    dtype = module.weight.dtype
    return tensor.to(dtype) if dtype.is_floating_point else tensor


def freeze_adapters(network: nn.Module) -> None:
    """Keep the adapters in a network in the type that they are computed in, and without gradients."""
    for module in network.modules():
        if isinstance(module, LoraLinear):
            for side in (module.lora_A, module.lora_B):
                side.requires_grad_(False)
                side.weight.data = as_computed(side.weight.data, module.base_layer)
