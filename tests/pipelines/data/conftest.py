"""Images of known sizes, and the command as a user runs it."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from fields.data.bucket import Bucket
from fields.data.rows import Row
from pipelines.prepare import main


def _encoded(width: int, height: int, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (200, 40, 90)).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def image() -> Callable[..., bytes]:
    """An encoded image of a width and height."""
    return _encoded


@pytest.fixture
def prepared() -> Callable[..., list[Row]]:
    """Run the command, which must succeed, and read what it wrote."""

    def run(output: Path, *arguments: object) -> list[Row]:
        assert main([str(argument) for argument in arguments]) == 0
        bucket = Bucket(output)
        return [bucket[n] for n in range(len(bucket))]

    return run


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., str]:
    """Run the command, which must say in one line what is wrong, and write nothing."""

    def run(*arguments: object) -> str:
        assert main([str(argument) for argument in arguments]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert not list(tmp_path.rglob("*out*")), "something was written"
        (line,) = captured.err.splitlines()
        return line.removeprefix("error: ")

    return run
