import pyarrow.parquet as pq
import pytest

from fields.data.bucket import Bucket
from fields.data.rows import Row
from pipelines.data.writer import GROUP_BYTES, GROUP_ROWS, RowWriter, with_size


def test_rows_are_read_back_as_written(tmp_path):
    rows = [Row("a", "add", "ü"), Row("b", "style", "", b"source", b"target", "blurry", 640, 480)]
    with RowWriter(tmp_path / "x.parquet") as writer:
        for row in rows:
            writer.write(row)
        assert not (tmp_path / "x.parquet").exists()
    bucket = Bucket(tmp_path / "x.parquet")
    assert [bucket[n] for n in range(len(rows))] == rows
    assert writer.rows == 2


def test_several_source_images_and_scores_are_read_back_as_written(tmp_path):
    rows = [
        Row("a", "t", "p", b"first", more_sources=(b"second", b"third"), scores=(("x", 0.25), ("y", 0.75))),
        Row("b", "t", "p", b"only"),
        Row("c", "t", "p", frames=5, target_frames=(b"one", b"two", b"three", b"four", b"five")),
    ]
    with RowWriter(tmp_path / "rows.parquet") as writer:
        for row in rows:
            writer.write(row)
    bucket = Bucket(tmp_path / "rows.parquet")
    assert [bucket[n] for n in range(len(rows))] == rows


def test_row_groups_are_bounded_by_rows(tmp_path):
    with RowWriter(tmp_path / "x.parquet") as writer:
        for n in range(2 * GROUP_ROWS + 1):
            writer.write(Row(f"u{n}", "add", "prompt"))
    assert group_sizes(tmp_path / "x.parquet") == [GROUP_ROWS, GROUP_ROWS, 1]


def test_row_groups_are_bounded_by_the_bytes_of_their_images(tmp_path):
    with RowWriter(tmp_path / "x.parquet") as writer:
        for n in range(5):
            writer.write(Row(f"u{n}", "add", "prompt", bytes(GROUP_BYTES // 4), bytes(GROUP_BYTES // 4)))
    assert group_sizes(tmp_path / "x.parquet") == [2, 2, 1]


def group_sizes(path):
    metadata = pq.read_metadata(path)
    return [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]


def test_a_folder_is_never_replaced(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "precious").write_text("old")
    with pytest.raises(ValueError, match="data is a folder or a device; a data set is written as a file"):
        RowWriter(tmp_path / "data")
    assert (tmp_path / "data" / "precious").read_text() == "old"


def test_an_error_leaves_nothing(tmp_path):
    def write_and_fail() -> None:
        with RowWriter(tmp_path / "x.parquet") as writer:
            writer.write(Row("a", "add", ""))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_and_fail()
    assert list(tmp_path.iterdir()) == []


def test_no_rows_are_an_error_and_leave_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"there are no rows for .*x\.parquet"), RowWriter(tmp_path / "x.parquet"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_size_that_is_given_stays(image):
    row = Row("a", "add", "", image(6, 4), width=640, height=480)
    assert with_size(row) == row
