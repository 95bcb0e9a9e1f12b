import pytest

from fields.method.lag import Lag


@pytest.mark.parametrize(
    ("lag", "versions"), [(0, [0, 1, 2, 3, 4]), (1, [0, 0, 1, 2, 3]), (3, [0, 0, 0, 0, 1]), (9, [0, 0, 0, 0, 0])]
)
def test_a_step_rolls_out_with_the_version_that_many_steps_before_it(lag, versions):
    assert [Lag(lag).version(step) for step in range(5)] == versions


@pytest.mark.parametrize(
    ("lag", "every", "versions"), [(0, 3, [0, 0, 0, 3, 3, 3, 6, 6]), (1, 3, [0, 0, 0, 0, 3, 3, 3, 6]), (2, 4, [0] * 6 + [4, 4])]
)
def test_versions_that_are_not_published_are_passed_over(lag, every, versions):
    assert [Lag(lag, every).version(step) for step in range(8)] == versions


@pytest.mark.parametrize("every", [1, 2, 5])
@pytest.mark.parametrize("lag", [0, 1, 2, 5])
def test_publications_admit_every_step_once_and_in_order(lag, every):
    """Version v is published after v updates: then exactly the steps of that version may begin."""
    rule = Lag(lag, every)
    published = [version for version in range(40) if rule.publishes(version)]
    begun = [step for version in published for step in range(40) if rule.version(step) == version]
    assert begun == list(range(40))


@pytest.mark.parametrize("every", [1, 2, 5])
@pytest.mark.parametrize("lag", [0, 1, 2, 5])
def test_rollouts_are_at_least_the_lag_behind_and_at_most_one_publication_more(lag, every):
    """But for the first steps, which have the start."""
    behind = {step - Lag(lag, every).version(step) for step in range(lag + every, 40)}
    assert behind == set(range(lag, lag + every))


def test_what_is_no_lag_is_refused():
    with pytest.raises(ValueError, match="lag = -1; it must not be negative"):
        Lag(-1)
    with pytest.raises(ValueError, match="published every 0 steps; it must be 1 or more"):
        Lag(1, 0)
