"""Where the Ray cluster of a run is, so that a command about the run finds it among several on a machine."""

from contextlib import suppress
from pathlib import Path

from fields.atomic import write_text

_FILE = "cluster"


def record_address(folder: Path, address: str) -> None:
    """Write HOST:PORT of the cluster on which the run is led from now on."""
    with suppress(OSError):  # a full disk: commands then take the cluster that started last
        write_text(folder / _FILE, address)


def recorded_address(folder: Path) -> str | None:
    """HOST:PORT of the cluster on which the run was led last; None of a run that was on none."""
    try:
        return (folder / _FILE).read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
