"""Paths that may lie in object storage: written as URIs, and read from copies on the machine that needs them."""

import fcntl
import json
import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Annotated, Any
from urllib.parse import quote, unquote

from pyarrow import ArrowException
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType, LocalFileSystem, copy_files
from pydantic import AfterValidator, BeforeValidator, PlainSerializer

from fields.atomic import replacing, write_text
from fields.shown import one_line

_SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss")
_ABOVE = "+"  # ends the names of folders that copies stand in, so that the copy of a/b is not inside that of a


def cache_root() -> Path:
    """Where this machine keeps its copies: FIELDWEAVE_CACHE, or a folder in the user's own cache."""
    return Path(os.environ.get("FIELDWEAVE_CACHE") or "~/.cache/fieldweave").expanduser()


def is_uri(value: Any) -> bool:
    """Whether a value of the configuration names something in object storage."""
    return isinstance(value, str) and value.partition("://")[0] in _SCHEMES and "://" in value


def without_credentials(uri: str) -> str:
    """A URI as it is.

    Raises:
        ValueError: if it holds what lets somebody in; doesn't repeat it.
    """
    scheme, _, rest = uri.partition("://")
    place, _, options = rest.partition("?")
    names = {name.lower() for name, _, _ in (option.partition("=") for option in options.split("&"))}
    if "@" in place.partition("/")[0] or any(word in name for name in names for word in ("key", "token", "secret", "password")):
        raise ValueError(
            f"{scheme}://...: it holds credentials, and a configuration is stored with its run; allowed: a URI without them, "
            "and what the storage's own tools read, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    return uri


Uri = Annotated[str, AfterValidator(without_credentials)]


def _local(value: Any) -> Any:
    """Where the copy of what a URI names stands here; anything else as it is."""
    if not is_uri(value):
        return value
    without_credentials(value)
    scheme, _, rest = value.partition("://")
    name, _, options = rest.partition("?")
    if ".." in PurePosixPath(name).parts:
        raise ValueError(f"{value}: a URI has no '..'")
    *above, last = (part.replace("%", "%25").replace(_ABOVE, "%2B") for part in name.strip("/").split("/"))
    folders = (f"{part}{_ABOVE}" for part in above)
    return str(Path(cache_root(), scheme, f"?{quote(options, safe='')}" if options else "", *folders, last))


def uri_of(path: Path) -> str | None:
    """The URI whose copy stands at a path; None for a path of this machine's own."""
    if not path.is_relative_to(root := cache_root()) or path == root:
        return None
    scheme, *parts = path.relative_to(root).parts
    options = unquote(parts.pop(0)) if parts and parts[0].startswith("?") else ""
    folders = list(takewhile(lambda part: part.endswith(_ABOVE), parts))
    copied = parts[len(folders) :]
    names = [unquote(part.removesuffix(_ABOVE)) for part in (*folders, *copied[:1])]
    return f"{scheme}://{'/'.join([*names, *copied[1:]])}{options}"


def _as_written(path: Path) -> str:
    return uri_of(path) or str(path)


Location = Annotated[Path, BeforeValidator(_local), PlainSerializer(_as_written, return_type=str)]


def fetched(path: Path) -> Path:
    """A path whose content is here: of one that stands for a URI, the copy is made first.

    Processes of one machine make one copy, and none is replaced: a run that goes on may read it. If the storage doesn't
    answer, an earlier copy is good enough.

    Raises:
        ValueError: if there is nothing at the URI, the storage doesn't let it be read, or what is there is another than what
            was copied, by the names, sizes and times of its files.
    """
    uri = uri_of(path)
    if uri is None:
        return path
    try:
        try:
            files, root = FileSystem.from_uri(uri)
            infos = _listed(files, root)
        except FileNotFoundError:
            raise
        except (ArrowException, OSError):
            if _manifest(path).is_file():
                return path
            raise
        with _alone(path):
            _copy(files, root, infos, path)
    except (ArrowException, OSError, ValueError) as error:
        raise ValueError(f"{uri}: {one_line(error)}") from error
    return path


def is_here(path: Path) -> bool:
    """Whether a file can be read here, also one in object storage: its copy is made."""
    try:
        return fetched(path).is_file()
    except ValueError:
        return False


def _manifest(path: Path) -> Path:
    """What was copied; written last, so a copy without it is none."""
    return path.with_name(f".{path.name}.json")


def _copy(files: FileSystem, root: str, infos: Sequence[FileInfo], path: Path) -> None:
    originals = {info.path: [info.size, info.mtime_ns] for info in infos}
    manifest = _manifest(path)
    if path.exists() and manifest.is_file():
        if json.loads(manifest.read_text()) == originals:
            return
        raise ValueError(
            f"it has changed since it was copied to {path}, which runs may read; delete {manifest} to have it copied anew, "
            "or give the new one another name"
        )
    with replacing(path) as temporary:
        for info in infos:
            to = temporary / PurePosixPath(info.path).relative_to(root) if info.path != root else temporary
            to.parent.mkdir(parents=True, exist_ok=True)
            copy_files(info.path, str(to), source_filesystem=files, destination_filesystem=LocalFileSystem(), use_threads=False)
    write_text(manifest, json.dumps(originals))


def _listed(files: FileSystem, root: str) -> list[FileInfo]:
    """The file of that name, or all files below it."""
    found: FileInfo = files.get_file_info(root)
    if found.type == FileType.File:
        return [found]
    listed = files.get_file_info(FileSelector(root, recursive=True, allow_not_found=True))
    below = [info for info in listed if info.type == FileType.File and ".." not in PurePosixPath(info.path).parts]
    if not below:
        raise FileNotFoundError("no such file or folder")
    return below


@contextmanager
def _alone(path: Path) -> Generator[None]:
    """While no other process of this machine is in here with the same path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
