"""How fast a run can be, for the terminal."""

from rich.table import Table

from pipelines.parts.footprint import SHARED_EXPERTS
from pipelines.parts.pace import CORES, LAG, LEARNER, ROLLOUT, SHARED_GPUS, Pace
from pipelines.reports.page import percent

_NO_PROCESSES = {CORES, SHARED_GPUS, LAG}  # of these limits


def table(pace: Pace, source: str) -> Table:
    """A line per kind of process.

    Args:
        pace: of a run.
        source: where its figures come from.
    """
    result = Table(title=f"Seconds of an optimizer step ({pace.samples} samples), {source}")
    result.add_column("process", no_wrap=True)
    speed = ["TFLOP/s of one", *([f"of {pace.gpu}'s peak"] if pace.peak else [])] if pace.reached else []
    for name in ("number", "seconds", "busy", "keep the learner busy", *speed):
        result.add_column(name, justify="right")
    for who, seconds in pace.limits.items():
        if who not in _NO_PROCESSES and seconds:
            learner = who == LEARNER
            number, wanted = ("", "") if learner else (str(pace.given[who]), str(pace.wanted[who]))
            result.add_row(who, number, f"{seconds:.3g}", percent(pace.busy(who)), wanted, *_speed(pace, who))
    return result


def _speed(pace: Pace, who: str) -> list[str]:
    """Of one process while it computes: its operations per second, and their share of the GPU's peak."""
    if who not in pace.reached:
        return []
    reached = pace.reached[who]
    return [f"{reached / 1e12:.3g}", *([percent(reached / pace.peak)] if pace.peak else [])]


def lines(pace: Pace) -> list[str]:
    """What comes out, what decides it, and what to change."""
    gpus = f", {pace.hours * pace.gpus:.3g} GPU-hours on {pace.gpus:g} GPUs" if pace.gpus else ""
    return [
        f"a step takes {pace.step_seconds:.3g} s, {pace.samples_per_second:.3g} samples/s; {pace.steps} steps take "
        f"{_duration(pace.hours)}{gpus}, without start and exams",
        f"what limits: {_limit(pace)}",
    ]


def _limit(pace: Pace) -> str:
    if pace.limit == LEARNER:
        return "the learner, which is busy all the time; more of anything else changes nothing"
    busy = f"the learner is busy {percent(pace.busy(LEARNER))} of the time"
    if pace.limit == LAG:
        return f"rollouts, answers and update wait for one another ({busy}); a larger learner.lag lets them go on together"
    if pace.limit == CORES:
        return f"the CPU's cores, which all processes share ({busy}); more processes change nothing"
    if pace.limit == SHARED_GPUS:
        return f"the GPUs that several processes share ({busy}); a GPU of its own for each kind helps (num_gpus: 1)"
    wanted = pace.wanted[pace.limit]
    if pace.limit == SHARED_EXPERTS:
        return f"{pace.limit} ({busy}); set replicas of each of them to {wanted}"
    key = "rollout.workers" if pace.limit == ROLLOUT else f"{pace.limit}.replicas"
    return f"{pace.limit} ({busy}); set {key}={wanted}"


def _duration(hours: float) -> str:
    """In hours, or in minutes where that says more.

    >>> _duration(5.731), _duration(0.25)
    ('5.7 hours', '15 minutes')
    """
    return f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.0f} minutes"
