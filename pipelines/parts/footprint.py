"""What one kind of process keeps in memory, and whether it fits its share of a GPU."""

from dataclasses import dataclass

from pipelines.config.gpus import CONTEXT, room
from pipelines.config.run import SHARED

SHARED_EXPERTS = "shared experts"


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Memory of one process, in bytes.

    Attributes:
        who: as the configuration calls it.
        count: processes of this kind.
        num_gpus: of each.
        weights: of networks and adapters, on its device.
        kept: what else stays on its device: an optimizer's moments, an average, copies of the base's weights.
        working: the most that a forward, or a forward and backward, needs beside that.
        host: of the host's memory, at most: weights pass through it.
        remedy: what to set if it doesn't fit.
    """

    who: str
    count: int
    num_gpus: float
    weights: float
    kept: float
    working: float
    host: float
    remedy: str

    @property
    def device(self) -> float:
        """Bytes of a GPU's memory; 0 for a process without one."""
        return self.weights + self.kept + self.working + CONTEXT if self.num_gpus else 0.0

    def room(self, gpu: str) -> float:
        """Bytes that it may fill of a GPU, without what CUDA takes for itself."""
        return room(gpu, min(1.0, self.num_gpus)) if self.num_gpus else 0.0

    def fits(self, gpu: str) -> bool:
        """Whether its share of a GPU has room for it."""
        return self.device <= self.room(gpu) + CONTEXT


def who_of(service: str) -> str:
    """What tables call the processes of a service of experts: as the configuration does, or the shared ones together.

    >>> who_of("local_edit"), who_of("shared")
    ('experts.local_edit', 'shared experts')
    """
    return SHARED_EXPERTS if service == SHARED else f"experts.{service}"
