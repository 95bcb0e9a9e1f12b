"""What one service gets of the cluster."""

from dataclasses import dataclass
from typing import Any

# At or above what is in flight: a low limit stalls the router, and the replica takes its calls one at a time anyway.
_MAX_ONGOING_REQUESTS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Replicas of a service, and the CPUs and GPUs of each."""

    replicas: int = 1
    num_cpus: float = 1.0
    num_gpus: float = 0.0

    def deployment_options(self) -> dict[str, Any]:
        """Keyword arguments of a Serve deployment's `options`."""
        return {
            "num_replicas": self.replicas,
            "max_ongoing_requests": _MAX_ONGOING_REQUESTS,
            "ray_actor_options": {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus},
            "health_check_period_s": 2,
            "health_check_timeout_s": 30,
            "graceful_shutdown_timeout_s": 5,
        }
