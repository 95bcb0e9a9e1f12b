"""The image: linted, pinned as the project is, holding the code and nothing else. There is no Docker here to build it."""

import re
import subprocess
import sys
from pathlib import Path

DOCKERFILE = Path("deploy/docker/Dockerfile")
LINTER = Path(sys.executable).with_name("hadolint")


def _lint(text: str) -> str:
    found = subprocess.run([LINTER, "--no-color", "-"], input=text, capture_output=True, text=True)
    return found.stdout + found.stderr


def test_the_dockerfile_is_clean():
    assert _lint(DOCKERFILE.read_text()) == ""


def test_the_linter_would_object():
    assert "DL3006" in _lint(DOCKERFILE.read_text().replace(":3.11.14-slim-bookworm", ""))


def test_the_image_is_pinned_as_the_project_is():
    (pinned,) = re.findall(r"^torch==(.+)$", Path("constraints.txt").read_text(), re.MULTILINE)
    assert re.findall(r"torch==([\d.]+)", DOCKERFILE.read_text()) == [pinned, pinned]
    assert DOCKERFILE.read_text().count("--constraint constraints.txt") == 2


def test_both_targets_run_as_a_user_without_rights():
    stages = re.split(r"^FROM .* AS ", DOCKERFILE.read_text(), flags=re.MULTILINE)
    last = {stage.split()[0]: stage.strip().splitlines()[-1] for stage in stages if stage.split()[0] in ("cpu", "cuda")}
    assert last == {"cpu": "USER 1000", "cuda": "USER 1000"}


def test_what_is_copied_is_in_the_build_context():
    ignore = Path("deploy/docker/Dockerfile.dockerignore").read_text()
    sources = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE.read_text(), re.MULTILINE)
    copied = {name for line in sources for name in line.split()}
    assert copied >= {"fields", "services", "actors", "pipelines", "pyproject.toml"}
    for name in copied:
        assert Path(name).exists()
        assert f"!{name}\n" in ignore
