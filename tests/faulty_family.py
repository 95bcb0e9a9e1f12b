"""A scene family whose device fails, in a file that processes elsewhere can count in."""

import os
import sys
from pathlib import Path

import torch
from ray import cloudpickle

from fields.scene.family import SceneFamily

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # replicas and workers cannot import it

BROKEN = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
LOST_CARD = RuntimeError("NCCL error in: NCCLUtils.cpp:94, unhandled cuda error")
FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


class FaultyFamily(SceneFamily):
    """Its velocity raises an error at some of its calls.

    Args:
        calls: a file that gets the process id of each call.
        error: what is raised.
        at: numbers of the calls, from 0, that raise it.
    """

    def __init__(self, calls: Path, error: RuntimeError, at: tuple[int, ...]):
        super().__init__()
        self._calls = calls
        self._fault = type(error), str(error), at

    def velocity(self, transformer, x_t, t, condition):
        kind, text, at = self._fault
        number = len(processes(self._calls))
        with self._calls.open("a") as file:
            file.write(f"{os.getpid()}\n")
        if number in at:
            raise kind(text)
        return super().velocity(transformer, x_t, t, condition)


def processes(calls: Path) -> list[int]:
    """Who computed, call by call."""
    return [int(line) for line in calls.read_text().split()] if calls.exists() else []
