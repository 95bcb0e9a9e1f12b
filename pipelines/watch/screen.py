"""One screen about a run."""

from typing import TYPE_CHECKING

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from pipelines.run_folder.state import RECENT, RunState

if TYPE_CHECKING:
    from pipelines.watch.cluster_state import ClusterState

_QUIET_S = 60.0  # how long a run that trains may record nothing, before that is worth a warning,
_QUIET_STEPS = 10  # unless so many of its steps take longer
_MUCH_WAITING = 0.2  # of the learner's time


def screen(state: RunState, cluster: "ClusterState | None") -> Group:
    """Everything, top down: where the run is, its routes, the learner's ranks, its services, what is wrong."""
    parts: list[Text | Table] = [_headline(state, cluster), _facts(state, cluster)]
    if state.route_loss:
        parts.append(_routes(state))
    if cluster and cluster.ranks:
        parts.append(_ranks(cluster))
    if cluster and cluster.services:
        parts.append(_services(cluster))
    return Group(*parts, *(Text(f"warning: {line}", style="yellow") for line in warnings(state, cluster)))


def condition(state: RunState, cluster: "ClusterState | None") -> str:
    """`finished`, `running`, `starting` or `stopped`; without a cluster, a run that recorded just now is running."""
    if state.finished:
        return "finished"
    if cluster is None:
        return "stopped" if state.quiet_s is None or state.quiet_s > _patience(state) else "running"
    if cluster.learner:
        return "running" if state.step else "starting"
    return "stopped"


def warnings(state: RunState, cluster: "ClusterState | None") -> list[str]:
    """What a person should know, in one line each."""
    lines = []
    now = condition(state, cluster)
    if now == "stopped":
        kept = "from the start" if state.checkpoint is None else f"from step {state.checkpoint}"
        lines.append(f"nothing trains this run; the same command continues it {kept}")
    if now == "running" and state.quiet_s is not None and state.quiet_s > _patience(state):
        lines.append(f"no step for {duration(state.quiet_s)}")
    if state.clipped > 0.9:
        lines.append(f"the gradient was clipped in {100 * state.clipped:.0f} % of the last {RECENT} steps")
    if not state.config.numerics.deterministic:
        lines.append(state.config.numerics.promise)
    if cluster is None or now == "stopped":
        return lines
    if now == "running" and state.waiting is not None and state.waiting > _MUCH_WAITING:
        lines.append(f"the learner waits {100 * state.waiting:.0f} % of its time for targets; {_quicker(state, cluster)}")
    if now == "running" and cluster.workers < cluster.workers_wanted:
        lines.append(f"{cluster.workers} of {cluster.workers_wanted} rollout workers live")
    if cluster.repeated:
        lines.append(f"{cluster.repeated} rollouts were lost and made again")
    if cluster.truncated:
        lines.append(f"{cluster.truncated} prompts are longer than the encoder reads, and were cut")
    for name, service in cluster.services.items():
        if service.running < service.wanted:
            lines.append(f"{name}: {service.running} of {service.wanted} replicas run")
        if service.repeated:
            lines.append(f"{name}: {service.repeated} calls were lost and made again")
    return lines


def _quicker(state: RunState, cluster: "ClusterState") -> str:
    """What would shorten the waiting: replicas of the service that has most calls for each, if it has several, or else rollout
    workers. Steps that wait for their own rollouts are no shortage."""
    if state.config.learner.lag == 0:
        return "with learner.lag: 0 each step waits for its own rollouts"
    calls = {name: (service.in_work + service.queued) / max(1, service.running) for name, service in cluster.services.items()}
    busiest = max(calls, key=calls.__getitem__, default=None)
    if busiest is None or calls[busiest] <= 1:
        return f"calls pile up at no service, so rollout workers are few (pipelines.scale {state.config.run.name} rollout=N)"
    return f"calls pile up at {busiest}, whose replicas are few (pipelines.scale)"


def _patience(state: RunState) -> float:
    return max(_QUIET_S, _QUIET_STEPS * (state.seconds_per_step or 0.0))


def _headline(state: RunState, cluster: "ClusterState | None") -> Text:
    steps = state.config.run.steps
    now = condition(state, cluster)
    text = Text.assemble(
        (state.config.run.name, "bold"), f"  {now}  step {state.step} of {steps} ({100 * state.step / steps:.0f} %)"
    )
    if state.samples_per_second is not None:
        text.append(f"  {state.samples_per_second:.1f} samples/s")
    if now == "running" and state.eta_s is not None:
        text.append(f"  ETA {duration(state.eta_s)}")
    return text


def _facts(state: RunState, cluster: "ClusterState | None") -> Text:
    saved = "none yet" if state.checkpoint is None else f"step {state.checkpoint}, {duration(state.checkpoint_age_s)} ago"
    text = Text(f"checkpoint {saved}  staleness {state.staleness}")
    if state.quiet_s is not None:
        text.append(f"  last step {duration(state.quiet_s)} ago")
    if cluster and cluster.learner:
        text.append(f"  {cluster.workers} rollout workers  {cluster.depth} steps ahead")
    return text


def _routes(state: RunState) -> Table:
    table = Table("route", f"loss, mean of {RECENT} steps", box=box.SIMPLE_HEAD)
    table.columns[1].justify = "right"
    for route, loss in state.route_loss.items():
        table.add_row(route, f"{loss:.4f}")
    return table


def _ranks(cluster: "ClusterState") -> Table:
    table = Table("rank", "step", "waits for others", "memory", box=box.SIMPLE_HEAD)
    for column in table.columns[1:]:
        column.justify = "right"
    for number, rank in enumerate(cluster.ranks):
        table.add_row(str(number), str(rank.step), f"{100 * rank.waiting:.0f} %", f"{rank.memory_bytes / 1e9:.1f} GB")
    return table


def _services(cluster: "ClusterState") -> Table:
    table = Table("service", "replicas", "in work", "queued", box=box.SIMPLE_HEAD)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, service in cluster.services.items():
        table.add_row(name, f"{service.running} of {service.wanted}", str(service.in_work), str(service.queued))
    return table


def duration(seconds: float) -> str:
    """Seconds as a person says them: `12 s`, `3 min 5 s`, `2 h 10 min`, `3 d 4 h`."""
    whole = round(seconds)
    for (name, size), (below, part) in ((("d", 86400), ("h", 3600)), (("h", 3600), ("min", 60)), (("min", 60), ("s", 1))):
        if whole >= size:
            return f"{whole // size} {name} {whole % size // part} {below}"
    return f"{whole} s"
