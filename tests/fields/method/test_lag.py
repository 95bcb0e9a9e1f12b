import pytest

from fields.method.lag import Lag


@pytest.mark.parametrize(
    ("lag", "versions"), [(0, [0, 1, 2, 3, 4]), (1, [0, 0, 1, 2, 3]), (3, [0, 0, 0, 0, 1]), (9, [0, 0, 0, 0, 0])]
)
def test_a_step_rolls_out_with_the_version_that_many_steps_before_it(lag, versions):
    assert [Lag(lag).version(step) for step in range(5)] == versions


@pytest.mark.parametrize("lag", [0, 1, 2, 5])
def test_publications_admit_every_step_once_and_in_order(lag):
    """Version v is published after v updates: then exactly the steps of that version may begin."""
    begun = [step for version in range(12) for step in range(12 + lag) if Lag(lag).version(step) == version]
    assert begun == list(range(12 + lag))


@pytest.mark.parametrize("lag", [0, 1, 2, 5])
def test_the_first_version_needed_is_the_oldest_that_a_later_step_rolls_out_with(lag):
    for step in range(12):
        assert Lag(lag).first_needed(step) == min(Lag(lag).version(later) for later in range(step, 40))


def test_a_negative_lag_is_refused():
    with pytest.raises(ValueError, match="lag = -1; it must not be negative"):
        Lag(-1)
