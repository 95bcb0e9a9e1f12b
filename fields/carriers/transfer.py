"""Tensors on their way from the host to the device that computes."""

import torch
from jaxtyping import Shaped
from torch import Tensor


def on_device(tensor: Shaped[Tensor, "*shape"], device: torch.device | None) -> Shaped[Tensor, "*shape"]:
    """The tensor on a device; None leaves it where it is.

    What a GPU needs from the host goes by pinned memory: from any other a copy first waits for all that the GPU has still to
    compute, and the process stands still meanwhile. PyTorch keeps pinned memory for the next copy once this one is done.
    """
    if device is None or device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
