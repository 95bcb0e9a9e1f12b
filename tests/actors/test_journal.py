import json

import pytest

from actors.journal import CHANGES, METRICS, Journal, rows
from fields.update import Update

UPDATE = Update(loss=0.5, route_loss={"a": 0.5}, route_samples={"a": 2}, route_target_norm={"a": 1.0}, gradient_norm=0.1)


def test_rows_after_the_resumed_step_are_dropped_and_time_goes_on(tmp_path):
    journal = Journal(tmp_path, start=0, loggers=())
    for step in range(5):
        journal.record(step, UPDATE, policy_version=step, sample_ids=[2 * step, 2 * step + 1], seconds=10.0 * (step + 1))
    journal.close()
    resumed = Journal(tmp_path, start=3, loggers=())
    resumed.record(3, UPDATE, policy_version=1, sample_ids=[6, 7], seconds=1.0)
    resumed.close()
    written = rows(tmp_path / METRICS)
    assert [row["step"] for row in written] == [0, 1, 2, 3]
    assert [sample_id for row in written for sample_id in row["sample_ids"]] == list(range(8))
    assert [row["seconds"] for row in written] == [10.0, 20.0, 30.0, 31.0]
    assert written[-1]["staleness"] == 2


def test_a_half_written_last_line_is_dropped(tmp_path):
    path = tmp_path / METRICS
    path.write_text(json.dumps({"step": 0}) + '\n{"step": 1, "lo')
    assert rows(path) == [{"step": 0}]


def test_a_torn_line_is_cut_off_before_the_next(tmp_path):
    """Where not even taking it back has worked."""
    journal = Journal(tmp_path, 0, [])
    journal.record(0, UPDATE, policy_version=0, sample_ids=[0], seconds=1.0)
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"step": 1, "lo')
    journal.record(1, UPDATE, policy_version=1, sample_ids=[1], seconds=2.0)
    assert [row["step"] for row in rows(tmp_path / METRICS)] == [0, 1]


def test_what_a_machine_that_lost_power_left_is_dropped(tmp_path):
    (tmp_path / METRICS).write_bytes(b'{"step": 0}\n' + b"\0" * 4096)
    assert rows(tmp_path / METRICS) == [{"step": 0}]


@pytest.mark.parametrize("line", [b"garbage", b"", b"[]", b"5", b"null", b"[" * 100_000, b"\xff", b"\0\0"])
def test_a_line_that_is_no_row_is_named(tmp_path, line):
    path = tmp_path / METRICS
    path.write_bytes(b'{"step": 0}\n' + line + b'\n{"step": 2}\n')
    with pytest.raises(ValueError, match=rf"{METRICS}: line 2 is no row"):
        rows(path)


def test_a_change_that_was_cut_while_it_was_written_never_was_and_swallows_no_other(tmp_path):
    journal = Journal(tmp_path, 0, [])
    journal.record_change(5, {"routes.a.weight": 2})
    journal.close()
    with (tmp_path / CHANGES).open("a") as changes:
        changes.write('{"step": 7, "set": {"rou')
    journal = Journal(tmp_path, 0, [])
    journal.record_change(9, {"routes.a.weight": 3})
    journal.close()
    assert [(row["step"], row["set"]) for row in rows(tmp_path / CHANGES)] == [
        (5, {"routes.a.weight": 2}),
        (9, {"routes.a.weight": 3}),
    ]
