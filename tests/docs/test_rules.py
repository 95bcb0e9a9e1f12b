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


SETTLES = re.compile(
    r"set_num_(interop_)?threads|use_deterministic_algorithms|set_deterministic_debug_mode|fill_uninitialized_memory"
    r"|torch\.backends|CUBLAS_WORKSPACE_CONFIG|set_float32_matmul_precision|sdpa_kernel"
)


def sources() -> Iterator[tuple[str, str]]:
    for folder in ("fields", "services", "actors", "pipelines"):
        for path in (ROOT / folder).rglob("*.py"):
            yield str(path.relative_to(ROOT)), path.read_text()


def test_random_numbers_are_drawn_where_the_rule_says():
    (rule,) = re.findall(r"- Random numbers .*?(?=\n- )", RULES, re.DOTALL)
    assert {name for name, text in sources() if DRAWS.search(text)} == set(re.findall(r"`(\w+/[\w/]+\.py)`", rule))


def test_how_a_process_computes_is_settled_in_one_place():
    assert {name for name, text in sources() if SETTLES.search(text)} == {"fields/numerics.py"}


def test_every_process_settles_how_it_computes_before_it_builds_anything():
    settling = {name: text for name, text in sources() if ".settle()" in text}
    commands = ("diagnose", "experts", "generate", "run/part_times", "run/reference", "comparison/one_process_runner")
    actors = ("actors/learner.py", "actors/learner_rank.py", "actors/rollout_worker.py")
    timed = ("pipelines/run/publication.py", "pipelines/run/in_turn.py")
    processes = (*actors, "services/replica.py", "services/other_rank.py", *timed)
    assert set(settling) == {*processes, *(f"pipelines/{command}.py" for command in commands)}
    for name in processes:
        constructors = [node for node in ast.walk(ast.parse(settling[name])) if getattr(node, "name", None) == "__init__"]
        (first,) = (ast.unparse(node.body[0]) for node in constructors if isinstance(node, ast.FunctionDef))
        assert re.search(r"numerics(\(\)|\.build\(\))?\.settle\(\)$", first.lower()), (
            f"{name}: its constructor begins with {first}"
        )


def test_an_except_names_what_it_catches():
    """A clause that names nothing, or everything, must raise."""
    for name, text in sources():
        for clause in (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ExceptHandler)):
            everything = clause.type is None or ast.unparse(clause.type) in ("Exception", "BaseException")
            assert not everything or any(isinstance(node, ast.Raise) for node in ast.walk(clause)), f"{name}:{clause.lineno}"
