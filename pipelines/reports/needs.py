"""What a run needs, for the terminal."""

from rich.table import Table

from pipelines.config.gpus import CONTEXT, GIGABYTE, PLANNED_FOR, gpu_bytes
from pipelines.parts.footprints import Footprint
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
        fits = f"{needs.room(one) / GIGABYTE:.1f}" if one.num_gpus else "-"
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
    rollout, expert, learner = (flops / _TERA for flops in (needs.rollout_flops, needs.expert_flops, needs.learner_flops))
    return [
        f"learner: micro-batches of {needs.micro_batch}, {recomputed}",
        f"download: {needs.download / GIGABYTE:.1f} GB of the base, on every node unless they share a folder",
        f"for each query of a sample {needs.sample_bytes / _MEGA:.1f} MB travel between processes",
        f"for each sample {rollout + expert + learner:.3g} TFLOP: {rollout:.3g} for {needs.rollout_forwards:.1f} forwards of "
        f"its rollout, {expert:.3g} for one expert's, {learner:.3g} for the learner",
        *([_too_large(needs, needs.too_large[0])] if needs.too_large else ["everything fits"]),
    ]


def _too_large(needs: Needs, one: Footprint) -> str:
    return (
        f"{one.who} doesn't fit: it needs {one.device / GIGABYTE:.1f} GB with CUDA's own, its share of a {needs.gpu} has "
        f"{(needs.room(one) + CONTEXT) / GIGABYTE:.1f}; set {one.remedy}"
    )
