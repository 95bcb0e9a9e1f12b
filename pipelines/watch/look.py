"""Looking at a run once: its files, and its processes."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.run_folder.state import RunState, read_run

if TYPE_CHECKING:
    from pipelines.watch.cluster_state import ClusterState


def look(folder: Path, reachable: bool) -> tuple[RunState, "ClusterState | None"]:
    """The run as its files show it now, and as the cluster does if Ray is connected to one.

    Raises:
        ConfigError: if the folder's configuration is missing or damaged.
    """
    state = read_run(folder, time.time())
    if not reachable:
        return state, None
    from pipelines.watch.cluster_state import read_cluster  # it takes the services' code, so torch

    return state, read_cluster(state.config)
