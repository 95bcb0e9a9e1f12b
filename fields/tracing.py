"""A trace of what a process computes: every operator, kernel and copy, on a time line."""

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn


@dataclass(slots=True)
class _Trace:
    path: Path
    first: int
    count: int
    forwards: int = 0
    profiler: torch.profiler.profile | None = None

    def before_forward(self, network: nn.Module, inputs: Any) -> None:
        """Begins at one forward and ends at another, so that what follows a forward, such as its backward, is in it."""
        self.forwards += 1
        if self.forwards == self.first:
            self.profiler = torch.profiler.profile()  # of the CPU, and of a GPU where there is one
            self.profiler.start()
        elif self.profiler is not None and self.forwards == self.first + self.count:
            self.profiler.stop()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.profiler.export_chrome_trace(str(self.path))
            self.profiler = None


def trace_forwards(network: nn.Module, folder: Path, who: str, first: int, count: int) -> None:
    """Write a trace of some of a network's forwards, and of what comes between them, as FOLDER/WHO-NODE-PROCESS.json.gz, which
    Perfetto (ui.perfetto.dev) and chrome://tracing show. A process traces one network; its forwards share a thread.

    Args:
        network: whose forwards are counted.
        folder: of all traces.
        who: the process is.
        first: the forward that the trace begins with, counted from 1.
        count: of the forwards in it; a process that computes fewer writes nothing.
    """
    path = folder / f"{who}-{socket.gethostname()}-{os.getpid()}.json.gz"
    network.register_forward_pre_hook(_Trace(path, first, count).before_forward)
