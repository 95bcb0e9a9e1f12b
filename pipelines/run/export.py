"""A finished run's student, copied to where others load it from."""

import shutil
import tempfile
from pathlib import Path

from fields import checkpoint
from fields.atomic import replacing
from fields.shown import one_line
from pipelines.config.errors import ConfigError, input_refused
from pipelines.parts.consolidation import consolidate
from pipelines.reports.model_card import model_card
from pipelines.run_folder.changes import recorded_config
from pipelines.run_folder.summary import read_summary

_HUB = "hub:"


def export(run: Path, to: str, licence: str | None, private: bool) -> str:
    """Write or upload the moving average of a finished run's student, with its card and report; returns where.

    Args:
        run: its folder.
        to: a folder that doesn't exist, or `hub:OWNER/NAME`.
        licence: an identifier for the card.
        private: of a model that is new on the hub.

    Raises:
        ConfigError: if the run isn't finished, its checkpoint isn't complete, the folder exists, or the hub refuses.
    """
    if (summary := read_summary(run)) is None:
        raise ConfigError(f"{run} is not finished: it has no summary.json; the command that started it continues it")
    path = checkpoint.folder_of(run / "checkpoints", summary.steps)
    try:
        checkpoint.read(path)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    consolidate(path)
    place = to.removeprefix(_HUB)
    config = recorded_config(run)
    with input_refused():
        card = model_card(config, run, summary, place, licence)
    if to.startswith(_HUB):
        with tempfile.TemporaryDirectory() as folder:
            _write(path, run, card, Path(folder))
            return _upload(Path(folder), place, private, f"{config.run.name}, {summary.steps} steps")
    with input_refused():
        if Path(to).exists():
            raise ConfigError(f"--to: {to} exists; allowed is a folder that doesn't, or hub:OWNER/NAME")
        with replacing(Path(to)) as folder:
            folder.mkdir()
            _write(path, run, card, folder)
    return to


def _write(saved: Path, run: Path, card: str, folder: Path) -> None:
    """The files of the moving average that the checkpoint vouches for, and no others that may lie there."""
    for source in checkpoint.averaged_files(saved):
        to = folder / source.relative_to(saved / "ema")
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, to)
    shutil.copyfile(run / "report.html", folder / "report.html")
    (folder / "README.md").write_text(card, encoding="utf-8")


def _upload(folder: Path, name: str, private: bool, message: str) -> str:
    """To the hub; returns the model's address.

    Raises:
        ConfigError: what the hub said, in a line.
    """
    from httpx2 import HTTPError  # as the hub's client raises it
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    hub = HfApi()
    try:
        repository = hub.create_repo(name, private=private, exist_ok=True)
        hub.upload_folder(repo_id=repository.repo_id, folder_path=folder, commit_message=message)
    except (HTTPError, HFValidationError, OSError) as error:
        raise ConfigError(f"--to: {_HUB}{name}: {one_line(error)}") from error
    return str(repository)
