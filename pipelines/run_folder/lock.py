"""One driver at a time for a run's folder."""

import fcntl
import os
import socket
from collections.abc import Generator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from pipelines.config.errors import ConfigError


@contextmanager
def only_driver(folder: Path) -> Generator[None]:
    """Within it, no other driver writes the run's folder, on this machine or another one that mounts it.

    The lock is the operating system's, so it ends with the process, whatever ends that. Its file stands beside the folder,
    which a run that starts over deletes. A file system without locks gives none, and nothing is refused there.

    Raises:
        ConfigError: if another driver writes the folder, with its process and machine; or if it cannot be written.
    """
    with _lock_file(folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise ConfigError(
                f"run.name: {folder} is written by {holder}; allowed is one driver of a run at a time. Name another run, "
                "or stop that one"
            ) from None
        except OSError:
            pass
        since = datetime.now(UTC).isoformat(timespec="seconds")
        with suppress(OSError):  # a full disk: then the next one cannot say who holds it
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()} since {since}".encode())
        yield


def _lock_file(folder: Path) -> TextIO:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        return folder.with_name(f".{folder.name}.lock").open("a+")
    except (OSError, ValueError) as error:
        raise ConfigError(f"run.dir: {folder} cannot be written: {error}") from error
