"""What GPUs hold."""

GIGABYTE = 1e9
CONTEXT = 0.6 * GIGABYTE  # that CUDA takes for itself in every process
PLANNED_FOR = 0.94  # share of a GPU that a plan fills; the allocator's rounding and fragmentation take of the rest

# What torch.cuda.get_device_properties reports, which is less than the name says where that counts in 2**30 bytes.
GPUS = {"h100": 85.0, "h200": 150.1, "a100-80": 85.0, "a100-40": 42.3, "l40s": 47.7}


def gpu_bytes(gpu: str) -> float:
    """Bytes of a GPU's memory.

    Args:
        gpu: a name of GPUS, or NAME=GB for any other.

    Raises:
        ValueError: for an unknown name or a size that is no positive number; says what is allowed.

    >>> gpu_bytes("h100"), gpu_bytes("b200=192")
    (85000000000.0, 192000000000.0)
    """
    name, equals, size = gpu.partition("=")
    if not equals:
        if name not in GPUS:
            raise ValueError(f"unknown GPU {name!r}; allowed: {', '.join(GPUS)}, or NAME=GB, such as {name}=80")
        return GPUS[name] * GIGABYTE
    try:
        gigabytes = float(size)
    except ValueError:
        gigabytes = 0.0
    if not 0 < gigabytes < float("inf"):
        raise ValueError(f"GPU {gpu!r}: what stands behind = is its memory in GB, such as {name}=80")
    return gigabytes * GIGABYTE


def known_gpu(gpu: str) -> str:
    """The GPU, if its memory is known; raises as `gpu_bytes` does."""
    gpu_bytes(gpu)
    return gpu


def room(gpu: str, num_gpus: float) -> float:
    """Bytes that one process may plan for, of its share of a GPU."""
    return PLANNED_FOR * gpu_bytes(gpu) * num_gpus - CONTEXT
