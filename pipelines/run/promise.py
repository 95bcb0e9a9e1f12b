"""What may keep a run's bits from being those of another run, or of its own earlier session, in lines for a person."""

from collections.abc import Mapping

from fields.numerics import device_kind
from pipelines.run.origin import Origin


def rank_warnings(ranks: int, origin: Origin) -> list[str]:
    """What the number of ranks has to do with a run's bits, where they share a full student or did so in the checkpoint.

    Args:
        ranks: into whose parts the sums of a gradient are split now; 1 if they are the sums of one process.
        origin: where the run begins.
    """
    lines = []
    if ranks > 1:
        lines.append(
            f"the ranks share the student, so learner.ranks={ranks} orders its sums: another number has other last bits"
        )
    if origin.checkpoint is not None and origin.ranks != ranks:
        lines.append(
            f"warning: {origin.checkpoint} has the sums of {origin.ranks} ranks, and this run those of {ranks}: "
            "the last bits may differ"
        )
    return lines


def device_warnings(learner: str, services: Mapping[str, str], origin: Origin) -> list[str]:
    """Where the devices of a run are not one kind and model.

    A configuration may well put a service on a CPU beside a learner on a GPU; that is the same in each of its runs. What GPU a
    node has is not in the configuration.

    Args:
        learner: kind and model of the device that the student learns on, as `fields.numerics.device_name` calls it.
        services: application -> the same of a service.
        origin: where the run begins.
    """
    lines = []
    if origin.device is not None and origin.device != learner:
        lines.append(
            f"warning: {origin.checkpoint} was made on {origin.device}, and this is {learner}: the last bits may differ"
        )
    for application, device in services.items():
        if device != learner and device_kind(device) == device_kind(learner):
            lines.append(f"warning: {application} computes on {device}, the learner on {learner}: the last bits may differ")
    return lines
