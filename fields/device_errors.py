"""Which errors leave an accelerator of no use to the process that has met them."""

import re

import torch

# "CUDA error: an illegal memory access ...", "cuDNN error: CUDNN_STATUS_...", "NCCL error in: ..."; not what merely names a
# device, such as "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!".
_OF_THE_DEVICE = re.compile(
    r"\b(CUDA|CUDA driver|cuDNN|cuFFT|cuSOLVER|NCCL) error|\bCU(BLAS|DNN|FFT|SOLVER|SPARSE)_STATUS_", re.I
)


def breaks_device(error: RuntimeError) -> bool:
    """Whether every later computation on the device would fail too, until the process is another one.

    Such an error is sticky: an illegal access, an uncorrectable memory error, a failed collective. To be out of memory is not.

    >>> breaks_device(torch.AcceleratorError("CUDA error: an illegal memory access was encountered"))
    True
    >>> breaks_device(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    False
    """
    return isinstance(error, torch.AcceleratorError) or _OF_THE_DEVICE.search(str(error)) is not None
