"""What one service gets of the cluster."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# At or above what is in flight: a low limit stalls the router, and the replica takes its calls one at a time anyway.
_MAX_ONGOING_REQUESTS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Replicas of a service, the CPUs and GPUs of each, and the Ray labels that its node must carry."""

    replicas: int = 1
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    node_labels: Mapping[str, str] = field(default_factory=dict)

    def deployment_options(self) -> dict[str, Any]:
        """Keyword arguments of a Serve deployment's `options`."""
        return {
            "num_replicas": self.replicas,
            "max_ongoing_requests": _MAX_ONGOING_REQUESTS,
            "ray_actor_options": {
                "num_cpus": self.num_cpus,
                "num_gpus": self.num_gpus,
                "label_selector": dict(self.node_labels),
            },
            "health_check_period_s": 2,
            "health_check_timeout_s": 30,
            "graceful_shutdown_timeout_s": 5,
        }
