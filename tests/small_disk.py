"""A disk that a test can fill, and make read-only."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class SmallDisk:
    """A file system of its own, in memory, mounted for a test.

    Attributes:
        path: where it is mounted.
    """

    def __init__(self, path: Path):
        self.path = path

    def fill(self, but: int = 0) -> None:
        """Leave so many bytes, to the page."""
        free = _free(self.path) - but
        with (self.path / "filling").open("wb") as file:
            file.write(b"\0" * max(0, free))

    def empty(self) -> None:
        """Give back what was filled."""
        (self.path / "filling").unlink()

    def lock(self, how: str) -> None:
        """Let it be read-only, `ro`, or take files again, `rw`."""
        subprocess.run(["mount", "-o", f"remount,{how}", str(self.path)], check=True)


def _free(path: Path) -> int:
    found = subprocess.run(["stat", "-f", "-c", "%a %S", str(path)], check=True, capture_output=True, text=True).stdout.split()
    return int(found[0]) * int(found[1])


@contextmanager
def small_disk(path: Path, megabytes: int) -> Iterator[SmallDisk]:
    """A disk at a new folder; mounting needs root, and a container that lets it."""
    path.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(path)]
    mounted = subprocess.run(mounting, check=False, capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"a disk that can be filled needs root, who may mount: {mounted.stderr.strip()}")
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
