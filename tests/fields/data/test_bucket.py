import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fields.data.bucket import Bucket
from fields.data.rows import LONGEST_TEXT, Row
from fields.data.size import Size

ROWS = [
    {"uid": "u0", "task": "colour", "prompt": "a red circle", "source_image": None, "target_image": b"t0"},
    {"uid": "u1", "task": "add", "prompt": "", "source_image": b"s1", "target_image": None},
    {"uid": "u2", "task": "add", "prompt": "ü", "source_image": b"", "target_image": b"\x00\xff"},
]


def write(path, rows, drop=()):
    pq.write_table(pa.Table.from_pylist(rows).drop_columns(list(drop)), path)
    return path


def test_rows_are_what_was_written(tmp_path):
    bucket = Bucket(write(tmp_path / "b.parquet", ROWS))
    assert len(bucket) == 3
    assert [bucket[n] for n in (2, 0, 1)] == [Row(**ROWS[n]) for n in (2, 0, 1)]


def test_image_columns_may_be_missing_and_others_are_ignored(tmp_path):
    rows = [{"extra": 1.5, **row} for row in ROWS]
    bucket = Bucket(str(write(tmp_path / "b.parquet", rows, ("source_image", "target_image"))))
    assert bucket[1] == Row("u1", "add", "", None, None)


def test_a_row_that_is_not_there_is_an_index_error(tmp_path):
    bucket = Bucket(write(tmp_path / "b.parquet", ROWS))
    for row in (3, 100, -1):
        with pytest.raises(IndexError):
            bucket[row]


def test_every_column_is_read_and_empty_cells_are_none(tmp_path):
    full = {**ROWS[1], "negative_prompt": "blurry", "width": 640, "height": 480}
    empty = {**ROWS[0], "negative_prompt": None, "width": None, "height": None}
    bucket = Bucket(write(tmp_path / "b.parquet", [full, empty]))
    assert bucket[0] == Row("u1", "add", "", b"s1", None, "blurry", 640, 480)
    assert bucket[1] == Row("u0", "colour", "a red circle", None, b"t0", None, None, None)


def test_images_may_be_paths_relative_to_the_file(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"pixels")
    bucket = Bucket(write(tmp_path / "b.parquet", [{**ROWS[0], "source_image": "images/a.png"}]))
    assert bucket[0].source_image == b"pixels"


@pytest.mark.parametrize("name", ["none.png", "", "images", "x\nend"])
def test_a_path_without_an_image_names_file_and_row(tmp_path, name):
    (tmp_path / "images").mkdir()
    bucket = Bucket(write(tmp_path / "b.parquet", [{**ROWS[0], "source_image": name}]))
    with pytest.raises(ValueError, match=r"b\.parquet row 0 \('u0'\): source_image '.*' does not exist in"):
        bucket[0]


@pytest.mark.parametrize("name", ["../secret.png", "{outside}/secret.png", "link/secret.png", "a/../../secret.png", "a\0b"])
def test_a_path_must_not_leave_the_folder(tmp_path, name):
    (tmp_path / "data").mkdir()
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "data" / "link").symlink_to(tmp_path)
    row = {**ROWS[0], "source_image": name.format(outside=tmp_path)}
    bucket = Bucket(write(tmp_path / "data" / "b.parquet", [row]))
    with pytest.raises(ValueError, match=r"b\.parquet row 0 \('u0'\): source_image '.*' leaves the folder"):
        bucket[0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("loop.png", "'loop.png' cannot be read: "),
        ("a" * 5000, "cannot be read: .*File name too long"),
        ("large.png", "'large.png' has 4096 MiB; at most 256 are read"),
    ],
)
def test_a_path_that_cannot_be_read_names_file_and_row(tmp_path, name, message):
    (tmp_path / "loop.png").symlink_to("loop.png")
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(2**32)  # without blocks on the disk
    bucket = Bucket(write(tmp_path / "b.parquet", [{**ROWS[0], "source_image": name}]))
    with pytest.raises(ValueError, match=rf"b\.parquet row 0 \('u0'\): source_image .*{message}") as refusal:
        bucket[0]
    assert len(str(refusal.value)) < 1500


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": 3}, "column 'prompt' is int64; it must be string"),
        ({"uid": b"u"}, "column 'uid' is binary; it must be string"),
        ({"negative_prompt": 1.5}, "column 'negative_prompt' is double; it must be string"),
        ({"task": None}, "column 'task' is null; it must be string"),
        ({"source_image": [1]}, r"column 'source_image' is list.*; it must be binary \(encoded images\) or string \(paths\)"),
        ({"width": "640"}, "column 'width' is string; it must be a whole number"),
        ({"source_images": b"png"}, r"column 'source_images' is binary; it must be a list of binary \(encoded images\)"),
        ({"source_images": [1]}, r"column 'source_images' is list.*; it must be a list of binary"),
        ({"scores": "local"}, r"column 'scores' is string; it must be a map of string \(routes\) to double \(scores\)"),
        ({"scores": {"local": 1.0}}, r"column 'scores' is struct.*; it must be a map of string"),
    ],
)
def test_a_column_of_a_wrong_type_is_named(tmp_path, changes, message):
    with pytest.raises(ValueError, match=rf"b\.parquet: {message}"):
        Bucket(write(tmp_path / "b.parquet", [{**ROWS[0], **changes}]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"prompt": None}, "prompt is empty"), ({"width": 0}, "width is 0; it must be from 1 to 100000")],
)
def test_a_value_that_cannot_be_names_file_and_row(tmp_path, changes, message):
    bucket = Bucket(write(tmp_path / "b.parquet", [{**ROWS[0], "width": 8}, {**ROWS[1], **changes}]))
    with pytest.raises(ValueError, match=rf"b\.parquet row 1 \('u1'\): {message}"):
        bucket[1]


def test_several_source_images_are_read_in_their_order_also_from_paths(tmp_path):
    (tmp_path / "c.png").write_bytes(b"third")
    plain = {name: value for name, value in ROWS[0].items() if name != "source_image"}
    several = Bucket(write(tmp_path / "b.parquet", [{**plain, "source_images": [b"first", b"second"]}]))
    assert several[0].sources == (b"first", b"second")
    assert (several[0].source_image, several[0].more_sources) == (b"first", (b"second",))
    paths = Bucket(write(tmp_path / "p.parquet", [{**plain, "source_images": ["c.png", "c.png", "c.png"]}]))
    assert paths[0].sources == (b"third",) * 3
    one = Bucket(write(tmp_path / "o.parquet", [{**plain, "source_images": [b"first"]}, {**plain, "source_images": None}]))
    assert (one[0].sources, one[1].sources) == ((b"first",), ())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source_image": b"a", "source_images": [b"b"]}, "has a source_image and source_images; allowed is one of them"),
        ({"source_images": [b"a"] * 17}, "has 17 source images; at most 16 are read"),
        ({"source_images": [b"a", None]}, "an image of source_images is empty"),
        ({"source_images": ["none.png"]}, r"source_images 'none\.png' does not exist in"),
        ({"source_images": ["../a.png"]}, r"source_images '\.\./a\.png' leaves the folder"),
    ],
)
def test_source_images_that_cannot_be_name_file_and_row(tmp_path, changes, message):
    plain = {name: value for name, value in ROWS[0].items() if name != "source_image"}
    bucket = Bucket(write(tmp_path / "b.parquet", [{**plain, **changes}]))
    with pytest.raises(ValueError, match=rf"b\.parquet row 0 \('u0'\).*{message}"):
        bucket[0]


def write_scores(path, *scores):
    """Rows with these scores: (route, score) pairs, or None."""
    table = pa.Table.from_pylist([{**ROWS[0], "uid": f"u{n}"} for n in range(len(scores))])
    column = pa.array(scores, pa.map_(pa.string(), pa.float64()))
    pq.write_table(table.append_column("scores", column), path)
    return path


def test_scores_are_read_by_row_and_may_be_missing(tmp_path):
    bucket = Bucket(write_scores(tmp_path / "b.parquet", [("local", 0.25), ("global", 0.75)], None))
    assert bucket.scored
    assert bucket.scores(0) == {"local": 0.25, "global": 0.75}
    assert bucket[0].scores == (("local", 0.25), ("global", 0.75))
    assert bucket.scores(1) is None
    assert not Bucket(write(tmp_path / "plain.parquet", ROWS)).scored


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([("local", 0.5), ("global", 0.4)], "scores sum to 0.9; they must sum to 1"),
        ([], "scores sum to 0; they must sum to 1"),
        ([("local", 1.5), ("global", -0.5)], "scores: that of 'local' is 1.5; allowed are 0 to 1"),
        ([("local", float("nan"))], "scores: that of 'local' is nan; allowed are 0 to 1"),
        ([("local", 0.5), ("local", 0.5)], r"scores name a route twice: \['local', 'local'\]"),
        ([("local", None)], "a score is empty"),
    ],
)
def test_scores_that_are_none_name_file_and_row(tmp_path, scores, message):
    bucket = Bucket(write_scores(tmp_path / "b.parquet", [("local", 1.0)], scores))
    with pytest.raises(ValueError, match=rf"b\.parquet row 1 \('u1'\).*{message}"):
        bucket.scores(1)


@pytest.mark.parametrize("column", ["prompt", "width"])
def test_a_column_that_comes_twice_is_named(tmp_path, column):
    table = pa.Table.from_pylist([{**ROWS[0], "width": 8}])
    pq.write_table(table.append_column(column, table[column]), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=rf"b\.parquet has 2 columns '{column}'; every name must be one column's"):
        Bucket(tmp_path / "b.parquet")


@pytest.mark.parametrize("name", ["prompt", "negative_prompt"])
def test_a_text_without_end_is_refused_and_not_shown(tmp_path, name):
    longest = {**ROWS[0], "negative_prompt": "", name: "a" * LONGEST_TEXT}
    bucket = Bucket(write(tmp_path / "b.parquet", [longest, {**longest, name: "a" * LONGEST_TEXT + "a"}]))
    assert getattr(bucket[0], name) == longest[name]
    with pytest.raises(ValueError, match=f"row 1 .*: {name} has 100001 characters; at most 100000 are read") as refusal:
        bucket[1]
    assert len(str(refusal.value)) < 300


def test_a_uid_without_end_is_cut(tmp_path):
    bucket = Bucket(write(tmp_path / "b.parquet", [{**ROWS[0], "uid": "u" * 10_000, "source_image": "none.png"}]))
    with pytest.raises(ValueError, match=r"row 0 \('u+\.\.\.u+'\): source_image 'none.png' does not exist") as refusal:
        bucket[0]
    assert len(str(refusal.value)) < 500


@pytest.mark.parametrize("column", ["uid", "task", "prompt"])
def test_a_missing_column_is_named(tmp_path, column):
    path = write(tmp_path / "b.parquet", ROWS, (column,))
    with pytest.raises(ValueError, match=rf"b\.parquet lacks column '{column}'; it has .*source_image"):
        Bucket(path)


def test_an_empty_file_has_no_rows(tmp_path):
    path = tmp_path / "b.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS).slice(0, 0), path)
    with pytest.raises(ValueError, match=r"b\.parquet has no rows"):
        Bucket(path)


def test_a_missing_file_is_named(tmp_path):
    for path in (tmp_path / "none.parquet", tmp_path):
        with pytest.raises(ValueError, match=f"no such file: {path}"):
            Bucket(path)


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b"uid,task\n", lambda b: b[:-9], lambda b: b"PAR1" + b[8:-4]])
def test_what_is_not_parquet_is_refused(tmp_path, damage):
    path = write(tmp_path / "b.parquet", ROWS)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"b\.parquet cannot be read as Parquet"):
        Bucket(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": 0}, r"frames is 0; it must be from 1 to 1000"),
        ({"frames": 1001}, r"frames is 1001; it must be from 1 to 1000"),
        ({"target_frames": [b"a"] * 1001}, "has 1001 target frames; at most 1000 are read"),
        ({"target_frames": [b"a", None]}, "an image of target_frames is empty"),
        (
            {"target_frames": [b"a", b"b"], "frames": 5, "target_image": None},
            "row 'u0' has 2 target_frames and asks for 5 frames",
        ),
        ({"target_frames": [b"a"], "target_image": b"b"}, "row 'u0' has a target_image and target_frames"),
    ],
)
def test_a_clip_that_is_none_names_file_and_row(tmp_path, changes, message):
    with pytest.raises(ValueError, match=rf"b\.parquet row 0 \('u0'\):? .*{message}"):
        Bucket(write(tmp_path / "b.parquet", [{**ROWS[0], **changes}]))[0]


def test_frames_may_be_files_in_the_folder(tmp_path):
    for n in range(2):
        (tmp_path / f"{n}.png").write_bytes(f"frame {n}".encode())
    row = {**ROWS[0], "target_image": None, "frames": 2, "target_frames": ["0.png", "1.png"]}
    assert Bucket(write(tmp_path / "b.parquet", [row]))[0].target_frames == (b"frame 0", b"frame 1")
    with pytest.raises(ValueError, match=r"target_frames '\.\./x\.png' leaves the folder"):
        Bucket(write(tmp_path / "b.parquet", [{**row, "target_frames": ["0.png", "../x.png"]}]))[0]


def test_the_size_that_a_row_asks_for(tmp_path):
    rows = [{"uid": "u", "task": "t", "prompt": "p", "width": w, "height": h} for w, h in ((64, 32), (None, 32), (None, None))]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows")
    own = Size(8, 16, 9)
    assert [Bucket(tmp_path / "rows").size(n, own) for n in range(3)] == [Size(64, 32, 9), own, own]
    pq.write_table(pa.Table.from_pylist(rows).drop_columns(["width"]), tmp_path / "rows")
    assert Bucket(tmp_path / "rows").size(0, own) == own
    frames = [row | {"frames": count} for row, count in zip(rows, (5, 1, None), strict=True)]
    pq.write_table(pa.Table.from_pylist(frames), tmp_path / "rows")
    assert [Bucket(tmp_path / "rows").size(n, own) for n in range(3)] == [Size(64, 32, 5), Size(8, 16, 1), own]
