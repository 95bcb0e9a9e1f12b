"""What a run has to do with its copy in object storage before and after it: see that it can be written, and take up from it."""

from collections.abc import Callable, Generator
from contextlib import contextmanager

from pyarrow import ArrowException

from actors.mirror import Mirror
from fields import checkpoint
from fields.shown import one_line
from pipelines.cluster.waiting import waiting_for
from pipelines.config.errors import ConfigError
from pipelines.config.run import RunConfig
from pipelines.parts.run_parts import RunParts


def open_mirror(config: RunConfig, say: Callable[[str], None]) -> Mirror | None:
    """Where the run is copied to, if anywhere; it takes files.

    Raises:
        ConfigError: what the storage said, in a line.
    """
    if config.checkpoint.mirror is None:
        return None
    with _said_in_a_line(config), waiting_for(f"{config.checkpoint.mirror} to answer", say):
        mirror = RunParts(config).mirror
        assert mirror is not None
        mirror.require_writable()
        return mirror


def restore(config: RunConfig, mirror: Mirror) -> int | None:
    """Bring into the run's folder what only the mirror has: a newer checkpoint, and the record up to it.

    Returns the checkpoint's step; None if the folder has it all.

    Raises:
        ConfigError: what the storage said, in a line.
    """
    newest = checkpoint.newest(config.folder / "checkpoints")
    with _said_in_a_line(config):
        restored = mirror.restore(config.folder, checkpoint.steps_of(newest) if newest else 0)
    return checkpoint.steps_of(restored) if restored else None


def begin_mirror(config: RunConfig, mirror: Mirror, step: int, resume: str) -> None:
    """Delete the checkpoints of steps that will be done again; all of it for a run that starts over.

    Raises:
        ConfigError: what the storage said, in a line.
    """
    with _said_in_a_line(config):
        if resume == "never":
            mirror.clear()
        else:
            mirror.discard_after(step)


def store_record(config: RunConfig, mirror: Mirror) -> None:
    """Copy summary and report of a finished run beside its checkpoints.

    Raises:
        ConfigError: what the storage said, in a line.
    """
    with _said_in_a_line(config):
        mirror.store_record(config.folder)


@contextmanager
def _said_in_a_line(config: RunConfig) -> Generator[None]:
    try:
        yield
    except (OSError, ValueError, ArrowException) as error:
        raise ConfigError(f"checkpoint.mirror: {config.checkpoint.mirror}: {one_line(error)}") from error
