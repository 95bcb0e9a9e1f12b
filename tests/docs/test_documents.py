"""What the documents name exists: files, commands with their options, make's targets, links and their anchors."""

import argparse
import importlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from pipelines.config.reference import reference

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
FOLDERS = ("actors", "deploy", "docs", "fields", "pipelines", "services", "tests")
PATTERN = re.compile(r"[*{<=]|\.\.\.|NAME")
COMMAND = re.compile(r"python -m pipelines\.(\w+)((?:[^`\n\\]|\\\n)*)")


@pytest.fixture(params=PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def page(request: pytest.FixtureRequest) -> Path:
    return request.param


@cache
def options(command: str) -> frozenset[str]:
    """Every option that the command's own help knows, those of its subcommands included."""
    module = importlib.import_module(f"pipelines.{command}")
    return frozenset(_options_of(_parser_of(module)))


def _parser_of(module) -> argparse.ArgumentParser:
    """The parser that the command's `main` builds, taken at the moment in which it would parse."""
    built: list[argparse.ArgumentParser] = []

    class Stop(Exception):
        pass

    def stop(parser: argparse.ArgumentParser, *_: object) -> None:
        built.append(parser)
        raise Stop

    with pytest.MonkeyPatch.context() as patch:
        for method in ("parse_args", "parse_intermixed_args", "parse_known_args"):
            patch.setattr(argparse.ArgumentParser, method, stop)
        with pytest.raises(Stop):
            module.main([])
    return built[0]


def _options_of(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield name
                yield from _options_of(below)


def commands(text: str) -> Iterator[tuple[str, str]]:
    """Each command of a page, with what stands behind it on its line; a line ends in a backslash or not."""
    for name, rest in COMMAND.findall(text):
        yield name, rest.replace("\\\n", " ").partition(" #")[0]


def test_commands_exist_with_their_options(page):
    for name, rest in commands(page.read_text()):
        package = ROOT / "pipelines" / name
        assert package.with_suffix(".py").is_file() or (package / "__main__.py").is_file(), f"python -m pipelines.{name}"
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", rest))
        if named:
            assert named <= options(name), f"python -m pipelines.{name} has no {', '.join(sorted(named - options(name)))}"


def test_targets_of_make_exist(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^ {4}|`)make ([a-z-]+)", page.read_text(), re.MULTILINE))
    assert named <= targets, f"no targets: {', '.join(sorted(named - targets))}"


def test_paths_exist(page):
    """Words in code that begin with a folder of the repository; what a run writes, and patterns, are left out."""
    text = re.sub(r"```python\n.*?```", "", page.read_text(), flags=re.DOTALL)
    code = re.findall(r"`([^`\n]+)`", text) + re.findall(r"^    (.+)$", text, re.MULTILINE)
    words = {word.strip("`'\"(),;:|") for line in code for word in line.split()}
    for word in sorted(words):
        if word.startswith(tuple(f"{folder}/" for folder in FOLDERS)) and not PATTERN.search(word):
            assert (ROOT / word.partition(":")[0]).exists(), word


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_and_anchors_resolve(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith(("http:", "https:")):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(linked), target


def test_every_page_can_be_reached_from_the_readme():
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        links = {(page.parent / link.partition("#")[0]).resolve() for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text())}
        waiting += [link for link in links if link.suffix == ".md" and link.is_file() and link not in reached]
    assert set(PAGES) <= reached


def test_the_readme_is_two_screens():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 95
    assert max(len(line) for line in lines if not line.startswith("|")) <= 120


def test_the_configuration_page_is_current():
    assert (ROOT / "docs" / "configuration.md").read_text() == reference(), "run `make schema`"


def test_a_wrong_option_would_be_found():
    assert {"--resume", "--dry-run"} <= options("distill")
    assert {"import", "--input", "--min-score"} <= options("prepare")
    assert list(commands("python -m pipelines.distill a.yaml \\\n  --nothing x  # --note")) == [
        ("distill", " a.yaml    --nothing x ")
    ]
    assert "--nothing" not in options("distill")
