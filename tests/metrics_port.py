"""What the cluster's node shows on Ray's metrics port."""

import urllib.request

import ray
from waiting import LIMIT_S


def shown() -> str:
    """Everything that it shows now."""
    port = ray.nodes()[0]["MetricsExportPort"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=LIMIT_S) as answer:
        return answer.read().decode()


def values(metrics: str, name: str, *labels: str) -> list[float]:
    """Those of a metric with these labels, one per process that has shown it, ended ones included."""
    lines = [line for line in metrics.splitlines() if line.startswith(f"{name}{{") and all(label in line for label in labels)]
    return [float(line.rsplit(" ", 1)[1]) for line in lines]
