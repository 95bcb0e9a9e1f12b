"""Every test waits by one function, and that function says what it waited for."""

import ast
from pathlib import Path

import pytest
from waiting import wait_for

TESTS = Path(__file__).parent


def test_the_first_true_answer_is_returned():
    answers = iter([0, None, "", "there"])
    assert wait_for(lambda: next(answers), "an answer", every_s=0) == "there"


def test_in_vain_says_what_was_waited_for_and_how_far_it_came():
    with pytest.raises(AssertionError, match="waited 0 s in vain for: a replica"):
        wait_for(lambda: False, "a replica", every_s=0, limit_s=0)
    asked: list[int] = []
    with pytest.raises(AssertionError, match=r"waited 0 s in vain for: \[1\]"):
        wait_for(lambda: asked.append(1), lambda: asked[:1], every_s=0, limit_s=0)


def test_no_test_has_a_waiting_loop_of_its_own():
    """Nor asks a clock. An asyncio.sleep is what a fake service does."""
    found = {
        path.relative_to(TESTS).as_posix(): node.lineno
        for path in TESTS.rglob("*.py")
        if path.name != "waiting.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        if (node.value.id, node.attr) in {("time", "sleep"), ("time", "monotonic"), ("time", "perf_counter"), ("time", "time")}
    }
    assert not found, found
