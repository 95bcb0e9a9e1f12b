"""Finding a run's folder by its name."""

from pathlib import Path

from pipelines.config.errors import ConfigError

RUNS = Path("runs")


def find_run(name: str | None) -> Path:
    """The folder of a run: `name` is a path or a name below `RUNS`; None is the run whose files were written last.

    Raises:
        ConfigError: if there is no such run; names those that there are.
    """
    known = sorted(path.parent for path in RUNS.glob("*/config.yaml"))
    if name is None and known:
        return max(known, key=lambda folder: max(path.stat().st_mtime for path in folder.glob("*")))
    for folder in (Path(name), RUNS / name) if name else ():
        if (folder / "config.yaml").is_file():
            return folder
    raise ConfigError(f"no run {name or ''!r}; {RUNS} has: {', '.join(folder.name for folder in known) or 'none'}")
