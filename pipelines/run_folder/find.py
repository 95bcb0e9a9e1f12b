"""Finding a run's folder by its name, and its newest checkpoint."""

from pathlib import Path

from fields.shown import one_line
from pipelines.config.errors import ConfigError

RUNS = Path("runs")


def find_run(name: str | None) -> Path:
    """The folder of a run: `name` is a path, a name below `RUNS`, or the URI of a run's mirror, whose record is brought here
    as it is now; None is the run whose files were written last.

    Raises:
        ConfigError: if there is no such run; names those that there are, or what the storage said.
    """
    if name and "://" in name:
        return _mirrored(name)
    known = sorted(path.parent for path in RUNS.glob("*/config.yaml"))
    if name is None and known:
        return max(known, key=lambda folder: max(path.stat().st_mtime for path in folder.glob("*")))
    for folder in (Path(name), RUNS / name) if name else ():
        if (folder / "config.yaml").is_file():
            return folder
    raise ConfigError(f"no run {name or ''!r}; {RUNS} has: {', '.join(folder.name for folder in known) or 'none'}")


def _mirrored(uri: str) -> Path:
    """A folder with the record of a run's mirror."""
    from pyarrow import ArrowException  # here: the supervisor uses this file, and imports no torch

    from actors.mirror import Mirror
    from pipelines.config.location import cache_root

    place, mark, options = uri.partition("?")
    runs, _, run = place.rstrip("/").rpartition("/")
    folder = cache_root() / "records" / runs.replace("://", "/") / run
    try:
        if Mirror(f"{runs}{mark}{options}", run).fetch_record(folder):
            return folder
    except (OSError, ValueError, ArrowException) as error:
        raise ConfigError(f"{uri}: {one_line(error)}") from error
    raise ConfigError(f"{uri}: there is no run's record")


def newest_state(folder: Path) -> Path | None:
    """The state of the newest checkpoint in a run's folder, None without one; checkpoints are renamed into place whole."""
    states = [state for state in folder.glob("checkpoints/step-*/state.json") if _step_of(state).isdecimal()]
    return max(states, key=lambda state: int(_step_of(state)), default=None)


def _step_of(state: Path) -> str:
    return state.parent.name.removeprefix("step-")


def newest_step(folder: Path) -> int | None:
    """The optimizer steps after which a run's newest checkpoint was written; None without one."""
    state = newest_state(folder)
    return None if state is None else int(_step_of(state))
