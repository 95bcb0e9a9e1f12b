"""How a process computes, to the last bit: settled once, before anything else, and alike in every process of a run."""

import os
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Numerics:
    """What decides the last bits of a process, beside its device.

    `deterministic` makes every operator the same function on each call: what has no such kernel on CUDA raises a
    RuntimeError that names it (the list is in `torch.use_deterministic_algorithms`). Of attention, torch 2.13 then takes:

    - flash, whose backward adds dQ in a fixed order in strict mode (`deterministic` in `attention_backward.cu`);
    - memory-efficient, where flash can't be had (float32, or a mask); strict mode gives its backward one split of the keys
      (`num_splits_key = 1`), so nothing is added atomically;
    - the plain products, where neither can.

    cuDNN's attention has no deterministic backward. Strict mode passes it over (`check_cudnn_deterministic` in
    `sdp_utils.cpp`), and it is switched off besides, with and without gradients, as the first choice on Hopper. So the
    student that learns, which needs a backward, takes the kernel that experts and rollouts take, and a student that equals
    its expert has a loss of exactly 0 on CUDA too.

    TF32 rounds the factors of float32 products to 11 bits. It is off, so that float32 means the same on every device.

    Without `deterministic` every kernel is free: cuDNN's attention, kernels chosen by timing them, and TF32, which is what
    the float32 products of an adapter beside a bfloat16 network gain most from.

    Attributes:
        threads: of torch on the CPU, at least 1; another number sums in another order.
        deterministic: whether equal inputs give equal bits, on one kind of device.
    """

    threads: int = 1
    deterministic: bool = True

    def settle(self) -> None:
        """Let this process compute so; to be called before it touches CUDA, since cuBLAS reads its setting only then.

        On the CPU it changes no bits but by the number of threads: every kernel of ours there is deterministic anyway.
        """
        free = not self.deterministic
        torch.set_num_threads(self.threads)
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # strict mode wants it; it costs 32 MiB, which Hopper takes anyway
        # `use_deterministic_algorithms` is the same, and imports the compiler to tell it too: 2 s in every process
        torch.set_deterministic_debug_mode("error" if self.deterministic else "default")
        # Strict mode would write every `empty` first; what is read here is written by itself.
        torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
        torch.backends.cudnn.deterministic = self.deterministic
        torch.backends.cudnn.benchmark = free
        torch.backends.cuda.matmul.allow_tf32 = free
        torch.backends.cudnn.allow_tf32 = free
        torch.backends.cuda.enable_flash_sdp(True)
        torch.backends.cuda.enable_mem_efficient_sdp(True)
        torch.backends.cuda.enable_math_sdp(True)
        torch.backends.cuda.enable_cudnn_sdp(free)


def device_name(device: torch.device) -> str:
    """What a device is, as bits depend on it: `cpu`, or kind and model such as `cuda: NVIDIA H100 80GB HBM3`."""
    return f"{device.type}: {torch.cuda.get_device_name(device)}" if device.type == "cuda" else device.type


def device_kind(name: str) -> str:
    """The kind of a device that `device_name` named.

    >>> device_kind("cuda: NVIDIA H100 80GB HBM3"), device_kind("cpu")
    ('cuda', 'cpu')
    """
    return name.partition(":")[0]
