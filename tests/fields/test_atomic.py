"""Writing whole or not at all: what stands at a name before, during and after, for files and folders."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fields.atomic import replacing, write_text


def test_a_file_is_the_old_one_until_the_block_ends(tmp_path):
    path = tmp_path / "new" / "file.txt"
    write_text(path, "old ü")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text(encoding="utf-8") == "old ü"
    assert path.read_text() == "new"
    assert os.listdir(path.parent) == ["file.txt"]


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "step-1"
    (path / "inner").mkdir(parents=True)
    (path / "inner" / "left_over").write_text("old")
    with replacing(path) as temporary:
        (temporary / "inner").mkdir(parents=True)
        (temporary / "inner" / "file").write_text("new")
    assert [file.relative_to(path) for file in path.rglob("*") if file.is_file()] == [Path("inner/file")]


@pytest.mark.parametrize("link", [False, True])
def test_a_folder_never_makes_way_for_a_file(tmp_path, link):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "precious").write_text("old")
    if link:
        (tmp_path / "link").symlink_to(folder)
    with pytest.raises(IsADirectoryError):
        write_text(tmp_path / "link" if link else folder, "new")
    assert (folder / "precious").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == (["data", "link"] if link else ["data"])


def test_an_error_leaves_what_was_there(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_a_killed_process_leaves_what_was_there(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")
    script = (
        "import sys, signal, pathlib\nfrom fields.atomic import replacing\n"
        "with replacing(pathlib.Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half')\n    print(flush=True)\n    signal.pause()\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    writer.stdout.readline()
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    assert path.read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == [f".file.txt.{writer.pid}", "file.txt"]
