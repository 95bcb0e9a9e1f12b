"""Random access to Parquet: right rows, bounded memory, and nothing read that was not asked for."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from waiting import LIMIT_S

from fields.data.row_groups import RowGroups

MANY = 10_000_000
GROUP = 20_000
SCHEMA = pa.schema([("uid", pa.string()), ("task", pa.string()), ("prompt", pa.string())])

# In a fresh process, where what is measured is the bucket's alone: 512 MiB of address space beyond what the imports took.
READ_AT_RANDOM = """
import resource, statistics, sys, time
import numpy as np
import pyarrow.parquet as pq
from fields.data.bucket import Bucket

def megabytes(line):
    return int(next(l for l in open("/proc/self/status") if l.startswith(line)).split()[1]) / 1024

limit = int((megabytes("VmSize") + 512) * 2**20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
before = megabytes("VmRSS")
bucket, file = Bucket(sys.argv[1]), pq.ParquetFile(sys.argv[1])
rows, groups = [], []
for n, number in enumerate(np.random.default_rng(0).integers(len(bucket), size=300).tolist()):
    began = time.process_time()
    row = bucket[number]
    rows.append(time.process_time() - began)
    assert row.uid == str(number) and row.prompt == f"prompt {number % 20_000:>100}", row
    if n % 15 == 0:  # in turns, so that what else the machine does slows both
        began = time.process_time()
        file.read_row_group(25 * (n // 15))
        groups.append(time.process_time() - began)
grown = megabytes("VmHWM") - before
print(len(bucket), statistics.median(rows), statistics.median(groups), grown)
"""


def write_many(path):
    """10 million rows, over 1 GB once decoded, of prompts that repeat from row group to row group."""
    prompts = pa.array([f"prompt {n:>100}" for n in range(GROUP)])
    tasks = pa.array(["add"] * GROUP)
    with pq.ParquetWriter(path, SCHEMA, compression="zstd", use_dictionary=["task"]) as writer:
        for start in range(0, MANY, GROUP):
            uids = pc.cast(pa.array(np.arange(start, start + GROUP)), pa.string())
            writer.write_table(pa.table([uids, tasks, prompts], schema=SCHEMA))


def test_ten_million_rows_are_read_within_a_limit_of_memory(tmp_path):
    path = tmp_path / "many.parquet"
    write_many(path)
    command = [sys.executable, "-c", READ_AT_RANDOM, str(path)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    assert finished.returncode == 0, finished.stderr
    rows, seconds, of_a_group, grown = map(float, finished.stdout.split())
    assert rows == MANY
    assert seconds < 10 * of_a_group, "a row at random costs its row group, not the file, which has 500"
    assert grown < 350, "megabytes"


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "b.parquet"
    table = pa.table({"uid": [f"u{n}" for n in range(10)], "image": [bytes([n]) * 1000 for n in range(10)]})
    pq.write_table(table, path, row_group_size=3)  # groups of 3, 3, 3 and 1
    return path


def test_every_row_is_found_in_its_group(path):
    groups = RowGroups(path)
    assert len(groups) == 10
    for n in (9, 0, 5, 3, 2, 6, 8, 1, 7, 4):
        assert groups.row(n, ["uid", "image"]) == {"uid": f"u{n}", "image": bytes([n]) * 1000}


def test_empty_groups_hold_no_row(tmp_path):
    path = tmp_path / "b.parquet"
    table = pa.table({"uid": ["a", "b"]})
    with pq.ParquetWriter(path, table.schema) as writer:
        for part in (table.slice(0, 0), table.slice(0, 1), table.slice(0, 0), table.slice(1, 1)):
            writer.write_table(part)
    groups = RowGroups(path)
    assert [groups.row(n, ["uid"])["uid"] for n in range(len(groups))] == ["a", "b"]


def test_a_kept_group_is_not_read_again_and_the_least_recent_goes_first(path):
    groups = RowGroups(path, cache_bytes=7000)  # two groups of 3 rows of 1 kB
    for n in (0, 3, 1, 6):  # the third use of group 0 makes group 1 the least recent one
        groups.row(n, ["uid", "image"])
    path.write_bytes(bytes(path.stat().st_size))  # what is read from now on is damaged
    assert groups.row(2, ["uid", "image"])["uid"] == "u2"
    assert groups.row(7, ["uid", "image"])["uid"] == "u7"
    with pytest.raises(ValueError, match=r"b\.parquet: row group 1 is damaged"):
        groups.row(4, ["uid", "image"])


def test_a_group_beyond_the_limit_is_still_read(path):
    groups = RowGroups(path, cache_bytes=1)
    assert [groups.row(n, ["uid"])["uid"] for n in (0, 4, 0)] == ["u0", "u4", "u0"]


def repeated(path, length, rows, **options):
    """A file of one group, a few kilobytes on disk, of one prompt that every row repeats."""
    schema = pa.schema([("uid", pa.string()), ("prompt", pa.string())])
    with pq.ParquetWriter(path, schema, compression="zstd", **options) as writer:
        writer.write_table(pa.table({"uid": [str(n) for n in range(rows)], "prompt": ["a" * length] * rows}, schema))
    return path


# As above; 2000 prompts of a megabyte would be 2 GB.
READ_REPEATED = """
import resource, sys
from pathlib import Path
from fields.data import row_groups

size = int(next(l for l in open("/proc/self/status") if l.startswith("VmSize")).split()[1])
resource.setrlimit(resource.RLIMIT_AS, (size * 1024 + 2**28, size * 1024 + 2**28))
row_groups.MOST_DECODED = 2**26
groups = row_groups.RowGroups(Path(sys.argv[1]))
try:
    groups.row(0, ["uid", "prompt"])
except ValueError as error:
    print(error)
print(sum(map(len, groups.column("prompt"))))
"""


def test_a_group_that_decodes_to_more_than_the_limit_is_refused_within_memory_and_a_column_is_read_in_parts(tmp_path):
    path = repeated(tmp_path / "b.parquet", 500_000, 600, write_batch_size=10)
    assert path.stat().st_size < 20_000
    finished = subprocess.run([sys.executable, "-c", READ_REPEATED, str(path)], capture_output=True, text=True, timeout=LIMIT_S)
    assert finished.stdout == f"{path}: row group 0 decodes to more than 64 MiB\n300000000\n", finished.stderr


def test_a_group_in_many_batches_has_its_rows_in_order(path, tmp_path, monkeypatch):
    table = pq.read_table(path)
    codes = pa.array([n % 3 for n in range(10)])
    table = table.append_column("task", pa.DictionaryArray.from_arrays(codes, pa.array(["add", "remove", "style"])))
    pq.write_table(table, tmp_path / "d.parquet")
    monkeypatch.setattr("fields.data.row_groups.MOST_DECODED", 11_000)  # a little more than the rows take
    groups = RowGroups(tmp_path / "d.parquet")
    rows = [groups.row(n, ["uid", "image", "task"]) for n in range(10)]
    assert rows == table.to_pylist()


def test_damage_is_one_line(path):
    """Behind the file's first four bytes is the header of a page, about which pyarrow has two lines to say."""
    data = bytearray(path.read_bytes())
    data[4] ^= 0x55
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"b\.parquet: row group 0 is damaged: .*header failed") as refusal:
        RowGroups(path).row(0, ["uid"])
    assert len(str(refusal.value).splitlines()) == 1


def test_a_text_that_is_not_utf_8_names_its_row(tmp_path):
    texts = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(bytes([0, 0, 0, 0, 1, 0, 0, 0])), pa.py_buffer(b"\xff")])
    pq.write_table(pa.table({"uid": texts}), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=r"b\.parquet row 0 has a text that is not UTF-8"):
        RowGroups(tmp_path / "b.parquet").row(0, ["uid"])


def test_only_the_asked_columns_are_read(path):
    assert RowGroups(path).row(4, ["uid"]) == {"uid": "u4"}


def test_a_row_that_is_not_there_is_an_index_error(path):
    for n in (-1, 10):
        with pytest.raises(IndexError, match=rf"has 10 rows; there is no row {n}"):
            RowGroups(path).row(n, ["uid"])
