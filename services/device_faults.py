"""What a process does when its device fails it: out of memory it computes once more, on a broken device it ends.

A process that ends is what everything else survives: its call is repeated, and Serve or Ray starts another process.
"""

import logging
import os
import time
from collections.abc import Callable
from functools import cache
from typing import NoReturn, ParamSpec, TypeVar

import torch

from fields.device_errors import breaks_device
from services.process_metrics import ProcessMetrics
from services.ray_internals import metrics_export_s

P = ParamSpec("P")
A = TypeVar("A")

_log = logging.getLogger(__name__)


class DeviceFaults:
    """Computes for a process, and takes the faults of its device.

    Args:
        metrics: of the process; they count the faults.
    """

    def __init__(self, metrics: ProcessMetrics):
        self._metrics = metrics
        self._last: RuntimeError | None = None

    def survive(self, function: Callable[P, A], *arguments: P.args, **keywords: P.kwargs) -> A:
        """The result of `function(*arguments)`, which must be pure: out of memory it is computed once more.

        A second time out of memory, or an error that breaks the device, ends this process.
        """
        try:
            return self._compute(function, *arguments, **keywords)
        except torch.OutOfMemoryError as error:
            self._metrics.count_fault("out_of_memory")
            _log.warning("out of memory; the allocator's cache is emptied, and the call computed once more: %s", error)
        torch.cuda.empty_cache()  # not in the handler: its error holds the tensors of the first attempt
        try:
            return self._compute(function, *arguments, **keywords)
        except torch.OutOfMemoryError as error:
            self._end("out_of_memory", error)

    def _compute(self, function: Callable[P, A], *arguments: P.args, **keywords: P.kwargs) -> A:
        try:
            return function(*arguments, **keywords)
        except RuntimeError as error:
            if breaks_device(error):
                self._end("broken", error)
            raise

    def _end(self, kind: str, error: RuntimeError) -> NoReturn:
        """End this process, once the metrics that count the fault are exported: they would end with it."""
        self._last = error
        self._metrics.count_fault(kind)
        _log.critical("this process ends, because its device failed (%s): %s", kind, error, exc_info=error)
        time.sleep(metrics_export_s())
        os._exit(1)  # an orderly end would wait for the device

    def check(self) -> None:
        """Raise the error that ends this process; on a GPU, whatever a tiny kernel beside the running ones raises."""
        if self._last is not None:
            raise self._last
        if torch.cuda.is_initialized():
            with torch.cuda.stream(_aside()):
                torch.ones(1, device="cuda").item()


@cache
def _aside() -> torch.cuda.Stream:
    """The health check's own stream: on the default one it would wait for the call that computes."""
    return torch.cuda.Stream()
