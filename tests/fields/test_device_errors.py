"""Texts as torch 2.13 writes them."""

import pytest
import torch

from fields.device_errors import breaks_device


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("an accelerator that this project has not met"),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm( handle, opa, opb, m, n, k)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("CUDA driver error: uncorrectable ECC error encountered"),
        RuntimeError("NCCL error in: NCCLUtils.cpp:94, unhandled cuda error (run with NCCL_DEBUG=INFO for details)"),
    ],
)
def test_what_makes_a_context_useless_breaks_the_device(error):
    assert breaks_device(error)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_what_another_call_may_do_without_does_not(error):
    assert not breaks_device(error)
