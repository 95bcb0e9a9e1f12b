"""A folder of captioned images as a data set: `cat.png` beside `cat.txt`, as LoRA trainers expect it."""

from pathlib import Path
from typing import Literal

from fields.data.images import image_files, read_inside
from fields.data.rows import Row
from pipelines.data.writer import RowWriter, with_size

Role = Literal["source", "target"]


def import_folder(folder: Path, output: Path, task: str, role: Role, area: int | None = None) -> list[Path]:
    """Write a row for every image in the folder and the folders below, in the order of their names.

    Args:
        folder: the images; each has its prompt in a text file of the same name.
        output: Parquet file.
        task: of every row.
        role: `target` if the prompts describe the images, `source` if they are instructions to edit them.
        area: of the buckets that images are brought to, in pixels; None leaves their sizes.

    Raises:
        ValueError: names the folder without images, or the image without a prompt or that does not decode, or the file that
            is a link out of the folder.
    """
    images = image_files(folder)
    with RowWriter(output, area, inputs=[*images, *map(_caption, images)]) as writer:
        for path in images:
            writer.write(_row(folder, path, task, role))
    return [output]


def _caption(path: Path) -> Path:
    return path.with_suffix(".txt")


def _row(folder: Path, path: Path, task: str, role: Role) -> Row:
    caption = _caption(path)
    if not caption.is_file():
        raise ValueError(f"{path} has no prompt: there is no {caption.name} beside it")
    uid = path.relative_to(folder).as_posix()
    try:
        prompt = " ".join(read_inside(folder, caption.relative_to(folder).as_posix(), "caption").decode().split())
        if not prompt:
            raise ValueError(f"{caption.name} is empty")
        data = read_inside(folder, uid, "image")
        return with_size(Row(uid, task, prompt, **{f"{role}_image": data}))  # type: ignore[arg-type]
    except ValueError as error:  # a caption that is not UTF-8, or a file that is not an image
        raise ValueError(f"{path}: {error}") from error
