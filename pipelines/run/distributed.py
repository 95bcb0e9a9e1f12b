"""A run on a Ray cluster: expert and encoder services, the learner with its rollout workers."""

import asyncio

import ray

from pipelines.cluster.deployment import RunServices
from pipelines.cluster.reserve import Reservation
from pipelines.cluster.waiting import waiting_for
from pipelines.parts.run_parts import RunParts
from pipelines.run.driver import Driver
from pipelines.run.origin import Origin
from pipelines.run.stopping import uninterrupted
from pipelines.run_folder.address import record_address
from pipelines.run_folder.changes import recorded_config
from pipelines.run_folder.outcome import Outcome
from pipelines.watch.progress import Display


def run_distributed(parts: RunParts, origin: Origin, display: Display, reservation: Reservation) -> Outcome | None:
    """Deploy, train, evaluate, and take down what was deployed; Ray is connected, and the run's folder has its configuration.

    Returns None for a run that was asked to stop (SIGTERM): it saved a checkpoint at its next step and ended.

    Raises:
        ConfigError: if a process has no memory for its largest group.
        RunFailed: if the learner is lost again and again, with no checkpoint in between.
        Exception: what the learner raised.
    """
    config, services = parts.config, RunServices(parts)
    names = ", ".join(services.names)
    own = config.run.services is None
    display.say(
        f"starting the learner, {config.rollout.workers} rollout workers and the services {names}"
        if own
        else f"starting the learner and {config.rollout.workers} rollout workers; using the services {names}"
    )
    record_address(config.folder, ray.get_runtime_context().gcs_address)
    driver = Driver(parts, origin, display, reservation)  # the learner loads while the services do
    try:
        reservation.make_room()
        if own:
            with waiting_for(f"the services {', '.join(config.services)} to load", display.say):
                services.deploy()
        return asyncio.run(driver.run())
    finally:
        with uninterrupted():
            driver.end()
            reservation.release()
            if own:
                RunServices(RunParts(recorded_config(config.folder))).delete()
