import json

import pytest

from fields.data.rows import Row
from pipelines.prepare import main

PLAIN = {"uid": "a", "task": "add", "prompt": "add a hat"}


@pytest.fixture
def folder(tmp_path, image):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "wide.png").write_bytes(image(6, 4))
    (tmp_path / "images" / "tall.jpg").write_bytes(image(2, 8, "JPEG"))
    (tmp_path / "images" / "none.png").write_text("no image")
    return tmp_path


def rows(image):
    wide, tall = image(6, 4), image(2, 8, "JPEG")
    return [
        Row("a", "add", "add a hat"),
        Row("b", "style", "", wide, tall, "blurry, ugly", 2, 8),  # the size of the target image
        Row("c", "style", 'say "hi",\nü', wide, None, None, 640, 480),
        Row("d", "style", "as it is", wide, None, None, 6, 4),
    ]


ENTRIES = [
    {**PLAIN, "source_image": None},
    {
        **{"uid": "b", "task": "style", "prompt": "", "negative_prompt": "blurry, ugly"},
        **{"source_image": "images/wide.png", "target_image": "images/tall.jpg"},
    },
    {"uid": "c", "task": "style", "prompt": 'say "hi",\nü', "source_image": "images/wide.png", "width": 640, "height": 480},
    {"uid": "d", "task": "style", "prompt": "as it is", "source_image": "./images/wide.png"},
]
CSV = """uid,task,prompt,negative_prompt,source_image,target_image,width,height
a,add,add a hat,,,,,
b,style,,"blurry, ugly",images/wide.png,images/tall.jpg,,
c,style,"say ""hi"",
ü",,images/wide.png,,640,480
d,style,as it is,,./images/wide.png,,,
"""
FILES = {
    "t.json": json.dumps(ENTRIES),
    "t.jsonl": "\n\n".join(json.dumps(entry) for entry in ENTRIES),
    "t.csv": CSV,
}


def test_rows_with_an_empty_prompt_are_counted(tmp_path, capsys):
    entries = [{"uid": f"{n}", "task": "t", "prompt": prompt} for n, prompt in enumerate(("red", "", " "))]
    for name, kept in (("all", entries), ("one", entries[:1])):
        (tmp_path / f"{name}.json").write_text(json.dumps(kept))
        assert main(["import", "--input", str(tmp_path / f"{name}.json"), "--output", str(tmp_path / f"{name}.parquet")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path}/all.parquet: 3 rows, 2 of them with an empty prompt, 0.0 MB",
        f"{tmp_path}/one.parquet: 1 rows, 0.0 MB",
    ]


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "byte order mark"])
@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_the_same_rows(folder, image, prepared, name, mark):
    (folder / name).write_text(mark + FILES[name], encoding="utf-8")
    output = folder / "deep" / "er" / "x.parquet"
    assert prepared(output, "import", "--input", folder / name, "--output", output) == rows(image)


def test_sizes_are_brought_to_the_buckets_of_an_area(folder, prepared):
    (folder / "t.csv").write_text(CSV, encoding="utf-8")
    output = folder / "x.parquet"
    written = prepared(output, "import", "--input", folder / "t.csv", "--output", output, "--bucket", 64)
    assert [(row.width, row.height) for row in written] == [(None, None), (32, 128), (64, 64), (64, 64)]


def test_the_command_says_what_it_wrote(folder, capsys, prepared):
    (folder / "t.csv").write_text(CSV)
    prepared(folder / "x.parquet", "import", "--input", folder / "t.csv", "--output", folder / "x.parquet")
    assert capsys.readouterr().out == f"{folder / 'x.parquet'}: 4 rows, 1 of them with an empty prompt, 0.0 MB\n"


BAD = [
    ({"uid": "a", "task": "add"}, "line 2: prompt is missing; there is uid, task"),
    ({}, "line 2: uid is missing; there is nothing"),
    (
        {**PLAIN, "caption": "x"},
        "line 2: unknown field 'caption'; allowed: uid, task, prompt, negative_prompt, source_image",
    ),
    ({**PLAIN, "prompt": 3}, "line 2: prompt is 3; it must be text"),
    ({**PLAIN, "width": "wide"}, "line 2: width is 'wide'; it must be a whole number from 1 to 100000"),
    ({**PLAIN, "width": 0}, "line 2: width is 0; it must be a whole number from 1 to 100000"),
    ({**PLAIN, "width": True}, "line 2: width is True; it must be a whole number"),
    ({**PLAIN, "height": 10**30}, "it must be a whole number from 1 to 100000"),
    ({**PLAIN, "source_image": ["x"]}, "line 2: source_image is ['x']; it must be the path of an image"),
    ({**PLAIN, "source_image": "images/no.png"}, "line 2: source_image 'images/no.png' does not exist in"),
    ({**PLAIN, "source_image": "loop.png"}, "line 2: source_image 'loop.png' cannot be read: Symlink loop"),
    ({**PLAIN, "source_image": "a" * 5000}, "aaa' cannot be read: [Errno 36] File name too long"),
    ({**PLAIN, "prompt": "a" * 100_001}, "line 2: row 'a': prompt has 100001 characters; at most 100000 are read"),
    ({**PLAIN, "prompt": ["a" * 1000] * 1000}, "it must be text"),
    ({**PLAIN, "source_images": "a.png"}, "line 2: source_images is 'a.png'; it must be a list of 1 to 16 paths of images"),
    ({**PLAIN, "source_images": []}, "line 2: source_images is []; it must be a list of 1 to 16 paths of images"),
    ({**PLAIN, "source_images": ["images/no.png"]}, "line 2: source_images 'images/no.png' does not exist in"),
    ({**PLAIN, "frames": 1001}, "line 2: frames is 1001; it must be a whole number from 1 to 1000"),
    ({**PLAIN, "target_frames": []}, "line 2: target_frames is []; it must be a list of 1 to 1000 paths of images"),
    (
        {**PLAIN, "frames": 5, "target_frames": ["images/wide.png"]},
        "line 2: row 'a' has 1 target_frames and asks for 5 frames; it must have as many",
    ),
    (
        {**PLAIN, "target_image": "images/wide.png", "target_frames": ["images/wide.png"]},
        "line 2: row 'a' has a target_image and target_frames; allowed is one of them",
    ),
    (
        {**PLAIN, "frames": 2, "target_frames": ["images/wide.png", "images/tall.jpg"]},
        "line 2: row 'a': its target_frames have several sizes: 2 x 8, 6 x 4",
    ),
    ({**PLAIN, "scores": [0.5, 0.5]}, "line 2: scores is [0.5, 0.5]; it must be an object of routes and their scores"),
    ({**PLAIN, "scores": {"local": "all"}}, "it must be an object of routes and their scores"),
    ({**PLAIN, "scores": {"local": 0.5, "global": 0.4}}, "line 2: row 'a': scores sum to 0.9; they must sum to 1"),
    ({**PLAIN, "b" * 10_000: 1}, "line 2: unknown field 'bbb"),
    ({**PLAIN, "source_image": "../x.png"}, "line 2: source_image '../x.png' leaves the folder"),
    ({**PLAIN, "target_image": "images/none.png"}, "line 2: row 'a': the image of 8 bytes does not decode"),
    ([PLAIN], 'line 2 is [{"uid": "a", "task": "add", "prompt": "; it must be an object'),
]


def test_several_source_images_and_scores_of_a_row(folder, prepared, image):
    entry = {**PLAIN, "source_images": ["images/wide.png", "images/tall.jpg"], "scores": {"x": 0.25, "y": 0.75}}
    (folder / "t.jsonl").write_text(json.dumps(entry))
    (row,) = prepared(folder / "out.parquet", "import", "--input", folder / "t.jsonl", "--output", folder / "out.parquet")
    assert row.sources == (image(6, 4), image(2, 8, "JPEG"))
    assert row.scores == (("x", 0.25), ("y", 0.75))
    assert (row.width, row.height) == (6, 4), "those of the first"


def test_a_clip_s_frames_are_read_into_the_data_set(folder, prepared, image):
    entries = [{**PLAIN, "target_frames": ["images/wide.png"] * 5}, {**PLAIN, "frames": 9}]
    (folder / "t.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    clip, asked = prepared(folder / "out.parquet", "import", "--input", folder / "t.jsonl", "--output", folder / "out.parquet")
    assert clip.target_frames == (image(6, 4),) * 5
    assert (clip.width, clip.height, clip.frames) == (6, 4, 5)
    assert (asked.width, asked.frames, asked.target_frames) == (None, 9, ())


@pytest.mark.parametrize(("entry", "message"), BAD, ids=range(len(BAD)))
def test_a_wrong_entry_names_file_and_line(folder, refused, entry, message):
    path = folder / "t.jsonl"
    (folder / "loop.png").symlink_to("loop.png")
    path.write_text(json.dumps(PLAIN) + "\n" + json.dumps(entry) + "\n")
    line = refused("import", "--input", path, "--output", folder / "out.parquet")
    assert line.startswith(f"{path} ")
    assert message in line
    assert len(line) < 2000


@pytest.mark.parametrize("output", ["old", "t.csv", "/dev/null/x", "/proc/none/x", "n" * 300, "t.csv/x"])
def test_an_output_that_cannot_be_is_one_line_and_deletes_nothing(folder, refused, output):
    (folder / "t.csv").write_text(CSV, encoding="utf-8")
    (folder / "old").mkdir()
    (folder / "old" / "precious").write_text("old")
    refused("import", "--input", folder / "t.csv", "--output", folder / output)
    assert (folder / "old" / "precious").read_text() == "old"
    assert (folder / "t.csv").read_text(encoding="utf-8") == CSV


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.txt", b"a cat", "rows are read from .json, .jsonl, .csv"),
        ("t.json", b"{}", "t.json holds dict; it must be a list of objects"),
        ("t.json", b"[1]", "t.json entry 1 is 1; it must be an object"),
        ("t.json", b"[]", "there are no rows for"),
        ("t.json", b"[" * 100_000, "t.json has lists or objects in one another, deeper than can be read"),
        ("t.jsonl", b"[" * 100_000, "t.jsonl has lists or objects in one another, deeper than can be read"),
        ("t.jsonl", b'{"uid": ' + b"1" * 5000 + b"}", "t.jsonl line 1 is not JSON: Exceeds the limit"),
        ("t.json", b"[{]", "t.json is not JSON: Expecting property name"),
        ("t.jsonl", b'{"uid": "a"', "t.jsonl line 1 is not JSON"),
        ("t.jsonl", b"", "there are no rows for"),
        ("t.jsonl", b"\xff\xfe", "t.jsonl is not UTF-8: invalid start byte at byte 0"),
        ("t.csv", b"", "t.csv lacks column 'uid'; it has none"),
        ("t.csv", b"uid,prompt\n", "t.csv lacks column 'task'; it has uid, prompt"),
        ("t.csv", b"uid,task,prompt,prompt\n", "t.csv has 2 columns 'prompt'; every name must be one column's"),
        ("t.csv", b"uid,task,prompt,width\na,b,c," + b"1" * 5000 + b"\n", "t.csv line 2: width is '111"),
        ("t.csv", b"uid,task,prompt\n", "there are no rows for"),
        ("t.csv", b"uid,task,prompt\na,b\n", "t.csv line 2 has not as many cells as the header, which has 3"),
        ("t.csv", b"uid,task,prompt\na,b,c,d\n", "t.csv line 2 has not as many cells as the header, which has 3"),
        ("t.csv", b'uid,task,prompt\na,b,"c"d\n', "t.csv line 2 is not CSV"),
        ("t.csv", b"uid,task,prompt,width\na,b,c,-3\n", "t.csv line 2: width is '-3'; it must be a whole number from 1"),
        ("t.csv", b"uid,task,prompt,mood\na,b,c,d\n", "t.csv line 2: unknown field 'mood'; allowed: uid"),
    ],
)
def test_a_wrong_file_is_named(folder, refused, name, content, message):
    (folder / name).write_bytes(content)
    assert message in refused("import", "--input", folder / name, "--output", folder / "out.parquet")


def test_a_missing_file_is_named(folder, refused):
    line = refused("import", "--input", folder / "t.csv", "--output", folder / "out.parquet")
    assert line == f"no such file: {folder / 't.csv'}"


def test_a_wrong_row_leaves_an_older_data_set_as_it_was(folder, refused):
    (folder / "t.jsonl").write_text(json.dumps(PLAIN) + "\n{}\n")
    (folder / "x.parquet").write_bytes(b"older")
    refused("import", "--input", folder / "t.jsonl", "--output", folder / "x.parquet")
    assert (folder / "x.parquet").read_bytes() == b"older"
    assert len(list(folder.iterdir())) == 3
