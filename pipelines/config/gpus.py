"""What GPUs hold."""

GIGABYTE = 1e9
CONTEXT = 0.6 * GIGABYTE  # that CUDA takes for itself in every process
PLANNED_FOR = 0.94  # share of a GPU that a plan fills; the allocator's rounding and fragmentation take of the rest

# What torch.cuda.get_device_properties reports, which is less than the name says where that counts in 2**30 bytes.
GPUS = {"h100": 85.0, "h200": 150.1, "a100-80": 85.0, "a100-40": 42.3, "l40s": 47.7}

# Floating point operations per second that the makers name: dense bfloat16 on the matrix units, and float32 without TF32.
_PEAKS = {
    "h100": {"bfloat16": 989e12, "float32": 67e12},
    "h200": {"bfloat16": 989e12, "float32": 67e12},
    "a100-80": {"bfloat16": 312e12, "float32": 19.5e12},
    "a100-40": {"bfloat16": 312e12, "float32": 19.5e12},
    "l40s": {"bfloat16": 362e12, "float32": 91.6e12},
}


def gpu_flops(gpu: str, dtype: str) -> float:
    """The peak of a GPU in floating point operations per second.

    Raises:
        ValueError: for a GPU that is given by its memory alone.

    >>> gpu_flops("h100", "bfloat16") / 1e12
    989.0
    """
    if gpu not in _PEAKS:
        raise ValueError(f"GPU {gpu!r}: its speed isn't known; known are {', '.join(_PEAKS)}")
    return _PEAKS[gpu][dtype]


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
