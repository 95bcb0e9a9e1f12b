"""What a run needs, for the terminal."""

from rich.table import Table

from pipelines.config.errors import ConfigError
from pipelines.config.gpus import CONTEXT, GIGABYTE, PLANNED_FOR, gpu_bytes
from pipelines.parts.footprint import Footprint
from pipelines.parts.needs import Needs

_TERA, _MEGA = 1e12, 1e6


def table(needs: Needs) -> Table:
    """One line per kind of process, in GB of 1e9 bytes."""
    of = f"{needs.gpu}, {gpu_bytes(needs.gpu) / GIGABYTE:.1f} GB"
    result = Table(
        title=f"Memory of each process in GB, against {PLANNED_FOR:.0%} of {of}, less {CONTEXT / GIGABYTE:g} for CUDA"
    )
    result.add_column("process", no_wrap=True)
    for name in ("number", "GPUs", "weights", "kept", "working", "together", "room", "host"):
        result.add_column(name, justify="right")
    for one in needs.footprints:
        figures = (one.weights, one.kept, one.working, one.weights + one.kept + one.working)
        fits = f"{one.room(needs.gpu) / GIGABYTE:.1f}" if one.num_gpus else "-"
        result.add_row(
            one.who,
            f"{one.count}",
            f"{one.num_gpus:g}",
            *(f"{x / GIGABYTE:.1f}" for x in figures),
            fits,
            f"{one.host / GIGABYTE:.0f}",
        )
    return result


def lines(needs: Needs) -> list[str]:
    """What the table doesn't say; the last lines are what doesn't fit, and what would mend it."""
    recomputed = "activations computed again" if needs.recompute else "activations kept"
    merged = "merge what is trained into the weights" if needs.merge else "keep the adapter beside the weights"
    rollout, learner = needs.rollout_flops / _TERA, needs.learner_flops / _TERA
    least, most = (of(needs.expert_flops.values()) / _TERA for of in (min, max))
    experts = f"{most:.3g} for one expert's" if least == most else f"{least:.3g} to {most:.3g} for an expert's"
    forwards, models = needs.work.rollout_forwards, "models" if needs.models > 1 else "base"
    return [
        f"learner: micro-batches of {needs.micro_batch}, {recomputed}; rollout workers {merged}",
        f"download: {needs.download / GIGABYTE:.1f} GB of the {models}, on every node unless they share a folder",
        f"for each query of a sample {needs.sample_bytes / _MEGA:.1f} MB travel between processes",
        f"for each sample {rollout + most + learner:.3g} TFLOP: {rollout:.3g} for {forwards:.1f} forwards of "
        f"its rollout, {experts}, {learner:.3g} for the learner",
        *([_too_large(needs, needs.too_large[0])] if needs.too_large else ["everything fits"]),
    ]


def summary(needs: Needs) -> str:
    """The GPUs of a run and the memory of its processes, in one line.

    Raises:
        ConfigError: if a process doesn't fit; says what to set.
    """
    if needs.too_large:
        raise ConfigError(_too_large(needs, needs.too_large[0]))
    gpus = sum(one.count * one.num_gpus for one in needs.footprints)
    each = ", ".join(_in_its_room(needs, one) for one in needs.footprints if one.num_gpus)
    return f"needs {gpus:g} GPU{'s' * (gpus != 1)} such as {needs.gpu}; GB of the room of each process: {each}"


def _in_its_room(needs: Needs, one: Footprint) -> str:
    several = f"{one.count} x " if one.count > 1 else ""
    parts = f" in micro-batches of {needs.micro_batch}" if one.who == "learner" else ""
    return f"{several}{one.who} {(one.device - CONTEXT) / GIGABYTE:.1f} of {one.room(needs.gpu) / GIGABYTE:.1f}{parts}"


def _too_large(needs: Needs, one: Footprint) -> str:
    return (
        f"{one.who} doesn't fit: it needs {one.device / GIGABYTE:.1f} GB with CUDA's own, its share of a {needs.gpu} has "
        f"{(one.room(needs.gpu) + CONTEXT) / GIGABYTE:.1f}; set {one.remedy}"
    )
