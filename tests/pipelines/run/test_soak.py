"""What a long run holds: that it is measured, and that growth is told from none."""

from pathlib import Path

import psutil
import pytest

from pipelines.run.soak import Growth, Measured, growths, measure, write_soak


def held(step: int, mib: float, files: int = 10, party: str = "learner") -> Measured:
    return Measured(step=step, party=party, mib=mib, files=files, threads=4)


@pytest.mark.parametrize(
    ("of_step", "grew"),
    [
        (lambda step: held(step, 300 + 5 * (step % 3)), []),  # ups and downs
        (lambda step: held(step, 300 + (200 if step < 20 else 0)), []),  # what a start takes
        (lambda step: held(step, 300 + step), ["mib"]),  # 1 MiB per step
        (lambda step: held(step, 300, files=10 + step), ["files"]),
    ],
)
def test_growth_is_told_from_none(of_step, grew):
    found = growths([of_step(step) for step in range(0, 101, 5)], steps=100)
    assert [growth.measure for growth in found] == ["mib", "files", "threads"]
    assert [growth.measure for growth in found if not growth.flat] == grew


def test_the_quarters_are_compared_by_their_medians():
    measured = [held(step, mib) for step, mib in ((24, 1), (25, 100), (30, 102), (49, 9000), (50, 1), (75, 200), (99, 201))]
    assert growths(measured, steps=100)[0] == Growth(party="learner", measure="mib", before=102, after=200.5)


def test_who_was_not_there_in_both_quarters_is_not_compared():
    assert growths([held(10, 1), held(90, 1)], steps=100) == []


def test_processes_are_measured_and_drawn(tmp_path: Path):
    *_, store = measure(psutil.Process(), 3)  # this one is of no party of a run
    assert (store.party, store.step) == ("object store", 3)
    page = write_soak(tmp_path, "run", [held(step, 300 + step) for step in range(9)]).read_text()
    assert "Memory of its own, MiB" in page
    assert ">learner<" in page
    assert (tmp_path / "soak.json").is_file()
