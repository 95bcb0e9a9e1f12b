import pytest

from fields.keeping import Keeping

COMPLETE = [10, 3, 2]


@pytest.mark.parametrize(
    ("keeping", "left"),
    [
        (Keeping(1), [10]),
        (Keeping(2), [10, 3]),
        (Keeping(3), [10, 3, 2]),
        (Keeping(9), [10, 3, 2]),
        (Keeping(1, every=2), [10, 2]),
        (Keeping(1, every=3), [10, 3]),
        (Keeping(2, every=10), [10, 3]),
    ],
)
def test_the_newest_stay_and_those_of_certain_steps(keeping, left):
    superseded = keeping.superseded(COMPLETE, COMPLETE)
    assert [step for step in COMPLETE if step not in superseded] == left


def test_what_is_not_complete_goes_once_it_is_older_than_all_that_stays_by_age():
    assert Keeping(2).superseded([10, 3], [12, 10, 5, 3, 1]) == [1]
    assert Keeping(1, every=4).superseded([10], [12, 10, 8, 4]) == [8, 4], "it was never finished"
    assert Keeping(1).superseded([], [4, 2]) == []
