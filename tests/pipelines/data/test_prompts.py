import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fields.data.rows import Row
from pipelines.data.prompts import read_prompts

ENTRY = {"uid": "a", "task": "add", "prompt": "add a hat"}


def test_a_text_file_has_a_prompt_a_line(tmp_path):
    path = tmp_path / "p.txt"
    path.write_text("\ufeffa cat\n\n  two dögs \n", encoding="utf-8")
    assert list(read_prompts(path)) == [Row("line-1", "prompt", "a cat"), Row("line-3", "prompt", "two dögs")]


def test_data_sets_and_tables_are_read_as_they_are(tmp_path):
    (tmp_path / "p.jsonl").write_text(json.dumps(ENTRY))
    pq.write_table(pa.Table.from_pylist([ENTRY]), tmp_path / "p.parquet")
    for name in ("p.jsonl", "p.parquet"):
        assert list(read_prompts(tmp_path / name)) == [Row("a", "add", "add a hat")]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.txt", "no such file: .*none.txt"),
        ("none.parquet", "no such file: .*none.parquet"),
        ("none.png", "rows are read from .json, .jsonl, .csv"),
        ("bytes.txt", "bytes.txt is not UTF-8: invalid start byte at byte 0"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, name, message):
    (tmp_path / "bytes.txt").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=message):
        list(read_prompts(tmp_path / name))
