"""OmniEdit's files as its authors publish them: images wrapped as {bytes, path}, several prompts a row, scores."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fields.data.bucket import Bucket
from fields.data.rows import Row
from pipelines.prepare import main

SOURCE_SIZE, EDITED_SIZE = (6, 4), (8, 2)


@pytest.fixture
def entries(image):
    """A row of every task, of the scores 0, 1, 2, ..."""
    tasks = ["addition", "removal", "swap", "attribute_modification", "style", "env", "background"]
    return [
        {
            "omni_edit_id": f"task_{n}",
            "task": task,
            "src_img": {"bytes": image(*SOURCE_SIZE), "path": f"{n}.png"},
            "edited_img": {"bytes": image(*EDITED_SIZE, "JPEG"), "path": None},
            "edited_prompt_list": [f"do {task}", f"please do {task}"],
            "o_score": float(n),
            "sc_reasoning": "fine",
        }
        for n, task in enumerate(tasks)
    ]


@pytest.fixture
def source(tmp_path):
    return tmp_path / "omni" / "train-00000.parquet"


def write(path, entries, schema=None):
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(entries, schema=schema), path, row_group_size=2)


def run(source, tmp_path, *more):
    return ["omniedit", "--input", str(source), "--output", str(tmp_path / "x" / "out.parquet"), *more]


def buckets(tmp_path):
    """Route -> uids, by the names of the files."""
    found = {}
    for path in (tmp_path / "x").iterdir():
        bucket = Bucket(path)
        found[path.name] = [bucket[n].uid for n in range(len(bucket))]
    return found


def test_rows_go_to_the_bucket_of_their_route(tmp_path, source, entries, image, capsys):
    write(source, entries)
    assert main(run(source, tmp_path)) == 0
    assert buckets(tmp_path) == {
        "out.local_edit.parquet": ["task_0", "task_1", "task_2", "task_3"],
        "out.global_edit.parquet": ["task_4", "task_5", "task_6"],
    }
    row = Bucket(tmp_path / "x" / "out.global_edit.parquet")[0]
    assert row == Row("task_4", "style", "do style", image(*SOURCE_SIZE), image(*EDITED_SIZE, "JPEG"), None, *EDITED_SIZE)
    assert f"{tmp_path / 'x' / 'out.local_edit.parquet'}: 4 rows" in capsys.readouterr().out


def test_sizes_are_brought_to_the_buckets_of_an_area(tmp_path, source, entries):
    write(source, entries)
    assert main(run(source, tmp_path, "--bucket", "64")) == 0
    row = Bucket(tmp_path / "x" / "out.local_edit.parquet")[0]
    assert (row.width, row.height) == (128, 32)


def test_a_folder_is_read_in_the_order_of_its_files(tmp_path, source, entries):
    write(source.with_name("b.parquet"), entries[:2])
    write(source.with_name("a.parquet"), entries[2:4])
    assert main(run(source.parent, tmp_path)) == 0
    assert buckets(tmp_path) == {"out.local_edit.parquet": ["task_2", "task_3", "task_0", "task_1"]}


def test_images_may_be_plain_bytes(tmp_path, source, entries, image):
    write(source, [{**entries[0], "src_img": image(*SOURCE_SIZE), "edited_img": image(*EDITED_SIZE)}])
    assert main(run(source, tmp_path)) == 0
    assert Bucket(tmp_path / "x" / "out.local_edit.parquet")[0].source_image == image(*SOURCE_SIZE)


def test_a_task_can_be_routed_otherwise_and_new_ones_added(tmp_path, source, entries):
    write(source, [*entries, {**entries[0], "task": "zoom", "omni_edit_id": "new"}])
    assert main(run(source, tmp_path, "--map", "style=style", "--map", "zoom=global_edit")) == 0
    assert buckets(tmp_path) == {
        "out.local_edit.parquet": ["task_0", "task_1", "task_2", "task_3"],
        "out.global_edit.parquet": ["task_5", "task_6", "new"],
        "out.style.parquet": ["task_4"],
    }


def test_rows_below_the_least_score_are_left_out_and_counted(tmp_path, source, entries, capsys):
    entries[6]["o_score"] = None
    entries[5]["o_score"] = float("nan")
    write(source, entries)
    assert main(run(source, tmp_path, "--min-score", "3")) == 0
    assert buckets(tmp_path) == {"out.local_edit.parquet": ["task_3"], "out.global_edit.parquet": ["task_4"]}
    assert "5 rows are below a score of 3\n" in capsys.readouterr().out


def test_without_a_least_score_none_is_needed(tmp_path, source, entries):
    write(source, [{name: value for name, value in entries[0].items() if name != "o_score"}])
    assert main(run(source, tmp_path)) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "zoom"}, "unknown task 'zoom'; known: addition (local_edit), attribute_modification (local_edit), removal"),
        ({"task": None}, "unknown task None; known: "),
        ({"task": "zoom" * 1000}, "unknown task 'zoomzoom"),
        ({"edited_prompt_list": ["a" * 100_001]}, "row 'task_1': prompt has 100001 characters; at most 100000 are read"),
        ({"edited_prompt_list": []}, "edited_prompt_list is []; it must be a list of prompts"),
        ({"src_img": {"bytes": None, "path": "gone.png"}}, "src_img holds no encoded image"),
        ({"edited_img": {"bytes": b"none", "path": None}}, "row 'task_1': the image of 4 bytes does not decode"),
    ],
)
def test_a_wrong_row_names_file_and_row(tmp_path, source, entries, refused, changes, message):
    write(source, [entries[0], {**entries[1], **changes}])
    line = refused(*run(source, tmp_path))
    assert line.startswith(f"{source} row 1 ('task_1'): ")
    assert message in line
    assert len(line) < 1000


@pytest.mark.parametrize("task", [["style"], {"name": "style"}, 3])
def test_a_task_of_a_wrong_type_is_shown(tmp_path, source, entries, refused, task):
    write(source, [{**entries[0], "task": task}])
    assert refused(*run(source, tmp_path)) == f"{source} row 0 ('task_0'): task is {task}; it must be text"


def test_an_output_that_is_an_input_is_refused(tmp_path, source, entries, capsys):
    source = source.with_name("edits.local_edit.parquet")
    write(source, entries)
    before = source.read_bytes()
    assert main(["omniedit", "--input", str(source.parent), "--output", str(source.with_name("edits.parquet"))]) == 2
    assert capsys.readouterr().err == f"error: {source} is read for this data set; write it as another file\n"
    assert source.read_bytes() == before


def test_an_unknown_task_says_how_to_add_it(tmp_path, source, entries, refused):
    write(source, [{**entries[0], "task": "zoom"}])
    assert refused(*run(source, tmp_path)).endswith("add it with --map zoom=ROUTE")


@pytest.mark.parametrize(
    ("column", "more", "message"),
    [
        ("edited_prompt_list", (), "lacks column 'edited_prompt_list'"),
        ("o_score", ("--min-score", "1"), "lacks column 'o_score'"),
    ],
)
def test_a_missing_column_is_named(tmp_path, source, entries, refused, column, more, message):
    write(source, [{name: value for name, value in entries[0].items() if name != column}])
    line = refused(*run(source, tmp_path, *more))
    assert line.startswith(f"{source} {message}; it has omni_edit_id, task, src_img")


def test_a_column_that_comes_twice_is_named(tmp_path, source, entries, refused):
    write(source, entries)
    table = pq.read_table(source)
    pq.write_table(table.append_column("task", table["task"]), source)
    assert refused(*run(source, tmp_path)) == f"{source} has 2 columns 'task'; every name must be one column's"


def test_scores_and_ids_of_a_wrong_type_are_named(tmp_path, source, entries, refused):
    write(source, [{**entries[0], "o_score": "high"}])
    assert "o_score is 'high'; it must be a number" in refused(*run(source, tmp_path, "--min-score", "1"))
    write(source, [{**entries[0], "omni_edit_id": 7}])
    assert "omni_edit_id is 7; it must be text" in refused(*run(source, tmp_path))


def test_nothing_left_is_an_error(tmp_path, source, entries, refused):
    write(source, entries)
    assert refused(*run(source, tmp_path, "--min-score", "100")) == f"{source} has no rows of a score of at least 100"
    assert refused(*run(tmp_path / "no.parquet", tmp_path)) == f"no such file: {tmp_path / 'no.parquet'}"
    (tmp_path / "empty").mkdir()
    assert refused(*run(tmp_path / "empty", tmp_path)) == f"{tmp_path / 'empty'} has no Parquet files"


@pytest.mark.parametrize("text", ["style", "=x", "style=", "style=../x"])
def test_a_mapping_is_written_task_equals_route(tmp_path, source, capsys, text):
    with pytest.raises(SystemExit):
        main(run(source, tmp_path, "--map", text))
    assert f"{text!r} is not written TASK=ROUTE" in capsys.readouterr().err
