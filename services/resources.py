"""What one service gets of the cluster."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# At or above what is in flight: a low limit stalls the router, and the replica takes its calls one at a time anyway.
_MAX_ONGOING_REQUESTS = 64


# Expert calls come in bursts of an optimizer step: up within seconds of a queue, down after a minute without one.
_AUTOSCALING = {"upscale_delay_s": 3.0, "downscale_delay_s": 60.0, "metrics_interval_s": 1.0, "look_back_period_s": 5.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Autoscaling:
    """Serve's own autoscaler: up to `most` replicas, so that each has `target` calls in work or waiting."""

    most: int
    target: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Replicas of a service, the CPUs and GPUs of each, and the Ray labels that its node must carry.

    With `autoscaling` there are at least `replicas`.
    """

    replicas: int = 1
    autoscaling: Autoscaling | None = None
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    node_labels: Mapping[str, str] = field(default_factory=dict)

    def deployment_options(self) -> dict[str, Any]:
        """Keyword arguments of a Serve deployment's `options`."""
        return {
            **self._count(),
            "max_ongoing_requests": _MAX_ONGOING_REQUESTS,
            "ray_actor_options": {
                "num_cpus": self.num_cpus,
                "num_gpus": self.num_gpus,
                "label_selector": dict(self.node_labels),
            },
            "health_check_period_s": 2,
            "health_check_timeout_s": 30,
            "graceful_shutdown_timeout_s": 60,  # for the calls that it accepted
        }

    def _count(self) -> dict[str, Any]:
        if self.autoscaling is None:
            return {"num_replicas": self.replicas}
        bounds = {"min_replicas": self.replicas, "initial_replicas": self.replicas, "max_replicas": self.autoscaling.most}
        return {
            "autoscaling_config": bounds | {"target_ongoing_requests": self.autoscaling.target} | _AUTOSCALING,
        }
