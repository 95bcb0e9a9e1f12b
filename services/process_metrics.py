"""What every process of a run shows about itself on Ray's metrics port."""

import ray
import torch
from ray.util.metrics import Counter, Gauge

from fields.compilation import compiled_graphs


class ProcessMetrics:
    """That this process started (once more, where something killed it before), and the GPU memory that it takes, and the
    faults of its device.

    A process goes by its actor's name; the replicas of a service share the name of their application.
    """

    def __init__(self) -> None:
        name: str = ray.get_runtime_context().get_actor_name() or "driver"
        self._tags = {"process": name.removeprefix("SERVE_REPLICA::").split("#")[0]}
        Counter("field_process_starts", "Starts of a process, the first included.", ("process",)).inc(tags=self._tags)
        self._faults = Counter("field_device_faults", "Times that a device was out of memory or broken.", ("process", "kind"))
        self._graphs = Gauge("field_compiled_graphs", "Graphs compiled so far.", ("process",))
        self._memory = Gauge("field_gpu_memory_bytes", "The most GPU memory held so far; 0 without a GPU.", ("process",))

    def count_fault(self, kind: str) -> None:
        """The device was `out_of_memory`, or is `broken`."""
        self._faults.inc(tags={**self._tags, "kind": kind})

    def record(self) -> None:
        """Update the GPU memory and the compiled graphs; cheap."""
        self._memory.set(torch.cuda.max_memory_allocated(), self._tags)
        self._graphs.set(compiled_graphs(), self._tags)
