"""A run's copy in object storage: its checkpoints and its record, which outlive the machines and their disks.

URI/NAME/
    checkpoints/step-000200/...     as in the run's folder; state.json, which makes it complete, comes last
    config.yaml, metrics.jsonl ...  the record as it was at the newest checkpoint

Nothing here is trusted when it is read: a checkpoint is used only if the sums in its state.json agree.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from pyarrow import ArrowException
from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem, copy_files

from fields import checkpoint
from fields.atomic import replacing
from fields.keeping import Keeping

RECORD = ("config.yaml", "metrics.jsonl", "skills.jsonl", "changes.jsonl", "summary.json", "report.html")
_STATE = "state.json"
_PROBE = ".writable"
_HERE = LocalFileSystem()


class Mirror:
    """The copy of one run.

    Args:
        uri: of the folder that holds the copies of runs, as pyarrow's `FileSystem.from_uri` reads it: `s3://`, `gs://`,
            `abfs://`, `file://` or an absolute path. Credentials come from where the storage's own tools look for them.
        run: the run's name.

    Raises:
        ValueError: if nothing reads such a URI.
    """

    def __init__(self, uri: str, run: str):
        try:
            self._files, root = FileSystem.from_uri(uri)
        except (ArrowException, OSError) as error:
            raise ValueError(str(error)) from error
        self._root = PurePosixPath(root) / run

    def require_writable(self) -> None:
        """Write a small file, read it, and delete it.

        Raises:
            OSError: says what the storage said.
        """
        self._files.create_dir(str(self._root), recursive=True)
        probe = str(self._root / _PROBE)
        with self._files.open_output_stream(probe) as stream:
            stream.write(b"fieldweave")
        with self._files.open_input_stream(probe) as stream:
            if stream.read() != b"fieldweave":
                raise OSError(f"{probe} does not hold what was written to it")
        self._files.delete_file(probe)

    def steps(self) -> list[int]:
        """Of the checkpoints whose state is there, newest first."""
        return [step for step, complete in self._folders().items() if complete]

    def _folders(self) -> dict[int, bool]:
        """Step -> whether its state is there, of the folders that are named like checkpoints, newest first."""
        above = self._root / "checkpoints"
        found: dict[int, bool] = {}
        for path in self._listed(above):
            name, *rest = path.relative_to(above).parts
            if rest and name.startswith("step-") and name.removeprefix("step-").isdecimal():
                step = int(name.removeprefix("step-"))
                found[step] = found.get(step, False) or rest == [_STATE]
        return dict(sorted(found.items(), reverse=True))

    def store(self, saved: Path) -> None:
        """Copy a checkpoint, whose folder doesn't change: its files, the record, which is then never older, and its state.

        Raises:
            OSError: if the storage or the disk does not answer, or refuses.
        """
        to = self._checkpoint(checkpoint.steps_of(saved))
        files = sorted(path.relative_to(saved) for path in saved.rglob("*") if path.is_file() and path.name != _STATE)
        for path in files:
            self._put(saved / path, to / path.as_posix())
        self.store_record(saved.parent.parent)
        self._put(saved / _STATE, to / _STATE)

    def store_record(self, folder: Path) -> None:
        """Copy what stands in a run's folder beside the checkpoints."""
        for name in RECORD:
            if (folder / name).is_file():
                self._put(folder / name, self._root / name)

    def fetch_record(self, folder: Path) -> bool:
        """Bring what stands beside the checkpoints into a folder, as it is now; whether there is any."""
        folder.mkdir(parents=True, exist_ok=True)
        there = [name for name in RECORD if self._files.get_file_info(str(self._root / name)).type == FileType.File]
        for name in there:
            self._get(self._root / name, folder / name)
        return bool(there)

    def restore(self, folder: Path, above: int) -> Path | None:
        """Bring the newest complete checkpoint of more steps than `above` into a run's folder, with its record.

        Returns its folder; None if there is none, and then nothing is changed.
        """
        for step in self.steps():
            if step > above and (path := self._fetched(step, folder / "checkpoints")):
                for name in RECORD:
                    self._restore_record(name, folder / name)
                return path
        return None

    def _restore_record(self, name: str, here: Path) -> None:
        """Take a file of the record, unless that which is here is as long: rows are only ever added."""
        there = self._files.get_file_info(str(self._root / name))
        if there.type == FileType.File and not (here.is_file() and here.stat().st_size >= there.size):
            self._get(self._root / name, here)

    def prune(self, keeping: Keeping) -> None:
        """Delete the checkpoints that need not stay, and what is left of copies that were cut before them."""
        folders = self._folders()
        for step in keeping.superseded([step for step, complete in folders.items() if complete], list(folders)):
            self._delete(step)

    def discard_after(self, step: int) -> None:
        """Delete the checkpoints of later steps: a run that goes back to `step` will write others."""
        for later in self._folders():
            if later > step:
                self._delete(later)

    def clear(self) -> None:
        """Delete all of it: a run that starts over has another record, too."""
        self._files.delete_dir_contents(str(self._root), missing_dir_ok=True)

    def _checkpoint(self, step: int) -> PurePosixPath:
        return self._root / "checkpoints" / checkpoint.folder_of(Path(), step).name

    def _delete(self, step: int) -> None:
        folder = self._checkpoint(step)
        if self._files.get_file_info(str(folder / _STATE)).type == FileType.File:
            self._files.delete_file(str(folder / _STATE))  # first: from here on it is none
        self._files.delete_dir(str(folder))

    def _fetched(self, step: int, folder: Path) -> Path | None:
        """A checkpoint in the folder, None if it is damaged."""
        source = self._checkpoint(step)
        final = checkpoint.folder_of(folder, step)
        with replacing(final) as temporary:
            for path in self._listed(source):
                self._get(path, temporary / path.relative_to(source))
        if checkpoint.newest(folder, step - 1) != final:
            checkpoint.discard_after(folder, step - 1)
            return None
        return final

    def _listed(self, folder: PurePosixPath) -> Iterator[PurePosixPath]:
        selector = FileSelector(str(folder), allow_not_found=True, recursive=True)
        files = (PurePosixPath(info.path) for info in self._files.get_file_info(selector) if info.type == FileType.File)
        return (path for path in files if ".." not in path.parts)

    def _put(self, source: Path, to: PurePosixPath) -> None:
        self._files.create_dir(str(to.parent), recursive=True)
        on_disk = isinstance(self._files, LocalFileSystem)  # where half a file can be seen; elsewhere a file comes at once
        written = to.with_name(f".{to.name}") if on_disk else to
        copy_files(str(source), str(written), source_filesystem=_HERE, destination_filesystem=self._files, use_threads=False)
        if on_disk:
            self._files.move(str(written), str(to))

    def _get(self, source: PurePosixPath, to: Path) -> None:
        to.parent.mkdir(parents=True, exist_ok=True)
        copy_files(str(source), str(to), source_filesystem=self._files, destination_filesystem=_HERE, use_threads=False)
