"""Files that are written whole or not at all: under a temporary name beside their own, then renamed."""

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from errno import EISDIR
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """A name beside `path` to write a file or a folder under; at the end of the block it becomes `path`.

    What stood at `path` is replaced. If the block raises, `path` is as it was and what was written is gone. The content is on
    disk before the name changes, so that a machine that loses power has the old content or the new one; a process that is
    killed leaves the temporary name behind, which begins with a dot.

    Raises:
        IsADirectoryError: if `path` is a folder and what was written is a file; the folder is as it was. A folder makes way for
            a folder alone.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove(temporary)
    try:
        yield temporary
        for file in temporary.rglob("*") if temporary.is_dir() else [temporary]:
            if file.is_file():
                flush(file)
        if path.is_dir():  # a file is replaced by the renaming itself, a folder isn't
            if not temporary.is_dir():
                raise IsADirectoryError(EISDIR, "a folder stands where the file would go", str(path))
            shutil.rmtree(path)
        temporary.replace(path)
    finally:
        _remove(temporary)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text as a file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def flush(file: Path) -> None:
    """Bring what was written to a file to the disk."""
    with file.open("rb") as stream:
        os.fsync(stream.fileno())


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
