"""A wall clock that a test sets while processes run, by the compiled moved_clock.c, which they preload."""

import struct
import subprocess
from contextlib import suppress
from datetime import timedelta
from pathlib import Path


class MovedClock:
    """The wall clock of processes that are started for it.

    Attributes:
        environment: variables that such a process has beside its own.
    """

    def __init__(self, folder: Path):
        self._offset = folder / "moved-by"
        self._library = folder / "moved_clock.so"
        source = Path(__file__).with_suffix(".c")
        subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", str(self._library), str(source), "-ldl"], check=True)
        self._offset.write_bytes(bytes(8))
        self.environment = {"LD_PRELOAD": str(self._library), "MOVED_CLOCK": str(self._offset)}

    def move(self, by: timedelta) -> None:
        """Let the clock differ from the machine's by so much, from now on."""
        with self._offset.open("r+b", buffering=0) as file:
            file.write(struct.pack("q", by // timedelta(microseconds=1) * 1000))

    def processes(self) -> set[str]:
        """The names of those that take their time from it now: fifteen characters of each, without the method that it is in."""
        found = set()
        for maps in Path("/proc").glob("[0-9]*/maps"):
            with suppress(OSError):  # it has ended meanwhile
                if str(self._library) in maps.read_text():
                    found.add(maps.with_name("comm").read_text().strip().partition(".")[0])
        return found
