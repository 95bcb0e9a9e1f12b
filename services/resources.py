"""What one service gets of the cluster."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# At or above what is in flight: a low limit stalls the router, and the replica takes its calls one at a time anyway.
_MAX_ONGOING_REQUESTS = 64

_SOMETHING = 1e-3  # Ray refuses an empty bundle, and a process may ask for nothing

# Expert calls come in bursts of an optimizer step: up within seconds of a queue, down after a minute without one.
_AUTOSCALING = {"upscale_delay_s": 3.0, "downscale_delay_s": 60.0, "metrics_interval_s": 1.0, "look_back_period_s": 5.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Replicas of a service, the CPUs and GPUs of each process, and the Ray labels that its node must carry.

    Attributes:
        replicas: how many there are, or with `most_replicas` the fewest.
        most_replicas: up to which Serve adds replicas by itself; None keeps their number.
        target_calls: in work or waiting, that Serve then aims at for each replica.
        ranks: processes of a replica, all on one node.
    """

    replicas: int = 1
    most_replicas: int | None = None
    target_calls: float = 0.0
    ranks: int = 1
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    node_labels: Mapping[str, str] = field(default_factory=dict)

    def deployment_options(self) -> dict[str, Any]:
        """Keyword arguments of a Serve deployment's `options`."""
        return {
            **self._count(),
            "max_ongoing_requests": _MAX_ONGOING_REQUESTS,
            **self._place(),
            "health_check_period_s": 2,
            "health_check_timeout_s": 30,
            "graceful_shutdown_timeout_s": 60,  # for the calls that it accepted
        }

    def _place(self) -> dict[str, Any]:
        process, labels = {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus}, dict(self.node_labels)
        if self.ranks == 1:
            return {"ray_actor_options": {**process, "label_selector": labels}}
        wanted = {kind: amount for kind, amount in (("CPU", self.num_cpus), ("GPU", self.num_gpus)) if amount}
        return {
            "ray_actor_options": process,
            "placement_group_bundles": [wanted or {"CPU": _SOMETHING}] * self.ranks,
            "placement_group_strategy": "STRICT_PACK",
            "placement_group_bundle_label_selector": [labels] * self.ranks,
        }

    def _count(self) -> dict[str, Any]:
        if self.most_replicas is None:
            return {"num_replicas": self.replicas}
        bounds = {"min_replicas": self.replicas, "initial_replicas": self.replicas, "max_replicas": self.most_replicas}
        return {"autoscaling_config": bounds | {"target_ongoing_requests": self.target_calls} | _AUTOSCALING}
