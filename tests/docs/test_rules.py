"""Rules of CONTRIBUTING.md that no linter holds."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
RULES = (ROOT / "CONTRIBUTING.md").read_text()
DRAWS = re.compile(
    r"torch\.(rand|randn|randint|randperm|rand_like|randn_like|manual_seed)\("
    r"|np\.random\.(default_rng|Generator)\(|^import (random|secrets)",
    re.MULTILINE,
)


def sources() -> Iterator[tuple[str, str]]:
    for folder in ("fields", "services", "actors", "pipelines"):
        for path in (ROOT / folder).rglob("*.py"):
            yield str(path.relative_to(ROOT)), path.read_text()


def test_random_numbers_are_drawn_where_the_rule_says():
    (rule,) = re.findall(r"- Random numbers .*?(?=\n- )", RULES, re.DOTALL)
    assert {name for name, text in sources() if DRAWS.search(text)} == set(re.findall(r"`(\w+/[\w/]+\.py)`", rule))


def test_an_except_names_what_it_catches():
    """A clause that names nothing, or everything, must raise."""
    for name, text in sources():
        for clause in (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ExceptHandler)):
            everything = clause.type is None or ast.unparse(clause.type) in ("Exception", "BaseException")
            assert not everything or any(isinstance(node, ast.Raise) for node in ast.walk(clause)), f"{name}:{clause.lineno}"
