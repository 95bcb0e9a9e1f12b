"""How a process computes: the settings as torch reports them, and sums that are the same every time."""

import os
from collections.abc import Iterator

import pytest
import torch

from fields.numerics import Numerics, device_kind, device_name


@pytest.fixture
def _settled_again() -> Iterator[None]:
    yield
    Numerics().settle()


def settings() -> dict[str, object]:
    backends = torch.backends
    return {
        "strict": torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled(),
        "cudnn_deterministic": backends.cudnn.deterministic,
        "cudnn_benchmark": backends.cudnn.benchmark,
        "tf32": (backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()),
        "cudnn_attention": backends.cuda.cudnn_sdp_enabled(),
        "other_attention": (
            backends.cuda.flash_sdp_enabled(),
            backends.cuda.mem_efficient_sdp_enabled(),
            backends.cuda.math_sdp_enabled(),
        ),
        "fills": torch.utils.deterministic.fill_uninitialized_memory,
        "cublas": os.environ["CUBLAS_WORKSPACE_CONFIG"],
        "threads": torch.get_num_threads(),
    }


STRICT = {
    "strict": True,
    "cudnn_deterministic": True,
    "cudnn_benchmark": False,
    "tf32": (False, False, "highest"),
    "cudnn_attention": False,
    "other_attention": (True, True, True),
    "fills": False,
    "cublas": ":4096:8",
    "threads": 1,
}
FREE = STRICT | {
    "strict": False,
    "cudnn_deterministic": False,
    "cudnn_benchmark": True,
    "tf32": (True, True, "high"),
    "cudnn_attention": True,
    "threads": 2,
}


@pytest.mark.usefixtures("_settled_again")
def test_settling_leaves_nothing_of_what_was_before():
    for _ in range(2):
        Numerics().settle()
        assert settings() == STRICT
        Numerics(threads=2, deterministic=False).settle()
        assert settings() == FREE


def test_what_has_no_deterministic_kernel_is_refused_by_name():
    """`put_` is one of those that torch refuses on a CPU too."""
    x = torch.zeros(3)
    with pytest.raises(RuntimeError, match=r"put_ .*does not have a deterministic implementation"):
        x.put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]))


def test_a_cpu_is_called_by_its_kind_alone():
    assert device_name(torch.device("cpu")) == "cpu"
    assert device_kind("cuda: NVIDIA A100-SXM4-80GB") == "cuda"
