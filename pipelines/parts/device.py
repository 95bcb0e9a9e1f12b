"""Where a process computes."""

import torch


def device(num_gpus: float) -> torch.device:
    """The device of a process that was given this many GPUs."""
    return torch.device("cuda" if num_gpus else "cpu")
