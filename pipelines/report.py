"""report.html: one self-contained page about a run."""

from pipelines.config import RunConfig
from pipelines.outcome import Outcome


def write_report(config: RunConfig, outcome: Outcome, summary: dict) -> None:
    """Write the page into the run's folder."""
