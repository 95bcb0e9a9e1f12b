"""Frozen weights in fewer bytes: the linear modules of a network hold theirs in 8 or 4 bits, and compute in the network's type.

    fp8     torchao   e4m3 values, a float32 scale for every output
    int8    torchao   whole numbers from -127 to 127, a float32 scale for every output
    nf4     bitsandbytes   16 levels at a normal distribution's quantiles (Dettmers et al., arXiv 2305.14314), on a GPU alone

Only weights are rounded. An adapter's float32 products stand beside them; they cannot be added to them.
"""

from functools import partial
from math import ceil
from typing import Any, TypeGuard

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from fields.families.quantization import Quantization, maker

_NF4_BLOCK = 64  # values that share a float32 scale; a value has half a byte


def loading_options(quantization: Quantization, dtype: torch.dtype) -> dict[str, Any]:
    """What `from_pretrained` of a diffusers network is told, so that it quantizes weight by weight as it loads them.

    Args:
        quantization: of the weights.
        dtype: in which the network computes.

    Raises:
        ValueError: if the library that quantizes isn't installed.
    """
    if maker(quantization) is None:
        return {}
    from diffusers.quantizers.quantization_config import BitsAndBytesConfig, TorchAoConfig

    if quantization == "nf4":
        config = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype, bnb_4bit_use_double_quant=False
        )
    else:
        config = TorchAoConfig(_torchao_config(quantization))
    return {"quantization_config": config}


def quantize(network: nn.Module, quantization: Quantization) -> None:
    """Quantize the linear modules of a network in place; one without values gets the tensors that it would have.

    nf4 leaves it as it is: bitsandbytes makes that on a GPU alone, as it loads. `stored_bytes` knows what it would be.

    Raises:
        ValueError: if torchao isn't installed.
    """
    if quantization == "nf4" or maker(quantization) is None:
        return
    from torchao.quantization import quantize_

    quantize_(network, _torchao_config(quantization), filter_fn=partial(_is_quantized, network))
    network.requires_grad_(False)


def stored_bytes(network: nn.Module, quantization: Quantization) -> int:
    """Bytes of a network's parameters and buffers; it was quantized by `quantize`, or loaded so."""
    linear = {id(module.weight) for name, module in network.named_modules() if _is_quantized(network, module, name)}
    tensors = [*network.parameters(), *network.buffers()]
    if quantization == "nf4":
        return sum(_nf4_bytes(one) if id(one) in linear else tensor_bytes(one) for one in tensors)
    return sum(map(tensor_bytes, tensors))


def _is_quantized(network: nn.Module, module: nn.Module, name: str) -> TypeGuard[nn.Linear]:
    return isinstance(module, nn.Linear) and not is_kept(network, name)


def is_kept(network: nn.Module, name: str) -> bool:
    """Whether diffusers neither quantizes a module or parameter of its network nor loads it in fewer bits than float32."""
    return any(part in (getattr(network, "_keep_in_fp32_modules", None) or ()) for part in name.split("."))


def tensor_bytes(tensor: Shaped[Tensor, "..."]) -> int:
    """Bytes of a tensor, or of the tensors that a quantized one consists of: values and scales."""
    if is_traceable_wrapper_subclass(tensor):
        names, _ = tensor.__tensor_flatten__()
        return sum(tensor_bytes(getattr(tensor, name)) for name in names)
    return tensor.numel() * tensor.element_size()


def _nf4_bytes(weight: Tensor) -> int:
    return weight.numel() // 2 + 4 * ceil(weight.numel() / _NF4_BLOCK)


def largest_weight_bytes(network: nn.Module) -> int:
    """Bytes of the largest linear module's weight in the type that it computes in."""
    return max(
        module.weight.numel() * module.weight.element_size() for module in network.modules() if isinstance(module, nn.Linear)
    )


def _torchao_config(quantization: Quantization) -> Any:
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig

    kind = {"fp8": Float8WeightOnlyConfig, "int8": Int8WeightOnlyConfig}[quantization]
    return kind(set_inductor_config=False)  # which would change settings of the whole process
