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
import resource, sys, time
import numpy as np
import pyarrow.parquet as pq
from fields.data.bucket import Bucket

def megabytes(line):
    return int(next(l for l in open("/proc/self/status") if l.startswith(line)).split()[1]) / 1024

limit = int((megabytes("VmSize") + 512) * 2**20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
before = megabytes("VmRSS")
bucket = Bucket(sys.argv[1])
began = time.process_time()
numbers = np.random.default_rng(0).integers(len(bucket), size=300).tolist()
for number in numbers:
    row = bucket[number]
    assert row.uid == str(number) and row.prompt == f"prompt {number % 20_000:>100}", row
seconds = time.process_time() - began
grown = megabytes("VmHWM") - before
file, began = pq.ParquetFile(sys.argv[1]), time.process_time()
for group in range(0, 500, 25):
    file.read_row_group(group)
print(len(bucket), seconds / len(numbers), (time.process_time() - began) / 20, grown)
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


def test_only_the_asked_columns_are_read(path):
    assert RowGroups(path).row(4, ["uid"]) == {"uid": "u4"}


def test_a_row_that_is_not_there_is_an_index_error(path):
    for n in (-1, 10):
        with pytest.raises(IndexError, match=rf"has 10 rows; there is no row {n}"):
            RowGroups(path).row(n, ["uid"])
