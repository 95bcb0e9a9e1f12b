import os

import pytest

from fields.data.rows import Row
from pipelines.prepare import main


@pytest.fixture
def folder(tmp_path, image):
    """Two images in two folders, one in capitals; what is no image is passed over."""
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    (folder / "b.JPG").write_bytes(image(6, 4, "JPEG"))
    (folder / "b.txt").write_text("a photo\n of a cat \n", encoding="utf-8")
    (folder / "deep" / "a.png").write_bytes(image(2, 8))
    (folder / "deep" / "a.txt").write_text("ü")
    (folder / "notes.md").write_text("no image")
    return folder


def relink(folder, path):
    """Move a file out of the folder and leave a link to it."""
    elsewhere = folder.parent / f"elsewhere{path.suffix}"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def arguments(folder, output, *more):
    return ("folder", "--input", folder, "--output", output, "--task", "realism", *more)


def test_a_row_an_image_in_order_of_their_names(folder, tmp_path, image, prepared):
    output = tmp_path / "x.parquet"
    assert prepared(output, *arguments(folder, output)) == [
        Row("b.JPG", "realism", "a photo of a cat", None, image(6, 4, "JPEG"), None, 6, 4),
        Row("deep/a.png", "realism", "ü", None, image(2, 8), None, 2, 8),
    ]


def test_images_may_be_what_the_prompts_edit(folder, tmp_path, image, prepared):
    output = tmp_path / "x.parquet"
    first, _ = prepared(output, *arguments(folder, output, "--role", "source"))
    assert first == Row("b.JPG", "realism", "a photo of a cat", image(6, 4, "JPEG"), None, None, 6, 4)


def test_mixed_sizes_are_brought_to_the_buckets_of_an_area(folder, tmp_path, image, prepared, capsys):
    """Of 64 x 64 pixels: 64 x 64, 32 x 128 and 128 x 32; the images themselves stay."""
    output = tmp_path / "x.parquet"
    assert prepared(output, *arguments(folder, output, "--bucket", 64)) == [
        Row("b.JPG", "realism", "a photo of a cat", None, image(6, 4, "JPEG"), None, 64, 64),
        Row("deep/a.png", "realism", "ü", None, image(2, 8), None, 32, 128),
    ]
    with pytest.raises(SystemExit) as refusal:
        prepared(output, *arguments(folder, output, "--bucket", 31))
    assert refusal.value.code == 2
    assert "argument --bucket: '31' is no whole number of pixels from 32 to 100000" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "b.txt").unlink(), "b.JPG has no prompt: there is no b.txt beside it"),
        (lambda f: (f / "b.txt").write_text(" \n"), "b.JPG: b.txt is empty"),
        (lambda f: (f / "b.txt").write_bytes(b"\xff"), "b.JPG: 'utf-8' codec can't decode byte 0xff"),
        (lambda f: (f / "b.JPG").write_bytes(b"x"), "b.JPG: row 'b.JPG': the image of 1 bytes does not decode"),
        (lambda f: (f / "c.png").mkdir(), "c.png is named like an image, but is no file"),
        (lambda f: os.mkfifo(f / "c.png"), "c.png is named like an image, but is no file"),
        (lambda f: (f / "c.png").symlink_to("none.png"), "c.png is named like an image, but is no file"),
        (lambda f: (f / "c.png").symlink_to("c.png"), "c.png is named like an image, but is no file"),
        (lambda f: relink(f, f / "b.txt"), "b.JPG: caption 'b.txt' leaves the folder"),
        (lambda f: relink(f, f / "deep" / "a.png"), "a.png: image 'deep/a.png' leaves the folder"),
        (lambda f: (f / "b.txt").write_text("a" * 100_001), "row 'b.JPG': prompt has 100001 characters; at most 100000"),
        (lambda f: os.truncate(f / "b.JPG", 2**32), "b.JPG: image 'b.JPG' has 4096 MiB; at most 256 are read"),
        (lambda f: [p.unlink() for p in (f / "b.JPG", f / "deep" / "a.png")], "has no images; they are found by .png, .jpg"),
    ],
)
def test_what_is_wrong_is_named(folder, tmp_path, refused, damage, message):
    damage(folder)
    assert message in refused(*arguments(folder, tmp_path / "out.parquet"))


@pytest.mark.parametrize("name", ["b.JPG", "b.txt"])
def test_an_image_or_its_prompt_is_never_the_output(folder, capsys, name):
    before = (folder / name).read_bytes()
    assert main([str(argument) for argument in arguments(folder, folder / name)]) == 2
    assert capsys.readouterr().err == f"error: {folder / name} is read for this data set; write it as another file\n"
    assert (folder / name).read_bytes() == before


def test_a_missing_folder_is_named(tmp_path, refused):
    assert refused(*arguments(tmp_path / "no", tmp_path / "out.parquet")) == f"no such folder: {tmp_path / 'no'}"
