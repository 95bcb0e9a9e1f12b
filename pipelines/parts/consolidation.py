"""Model folders from a checkpoint that ranks wrote as shards: for whatever loads a student as a model."""

from pathlib import Path

from fields import checkpoint
from pipelines.config.errors import ConfigError
from pipelines.config.load import load_config
from pipelines.parts.run_parts import RunParts


def consolidate(path: Path) -> bool:
    """Write the model folders that a checkpoint lacks, whether it lacked any. The path may be that of its `ema`; any other path
    lacks none.

    Raises:
        ConfigError: if it is no complete checkpoint, or no longer in its run's folder.
    """
    folder = path.parent if path.name == "ema" else path
    if not checkpoint.lacks_models(folder):
        return False
    run = folder.absolute().parents[1]
    if not (run / "config.yaml").is_file():
        raise ConfigError(f"{folder} holds shards, which its run's configuration makes a model of: {run} has no config.yaml")
    parts = RunParts(load_config(run / "config.yaml", []))
    transformer = parts.family.load_transformer(parts.config.model.path)
    try:
        checkpoint.consolidate(folder, parts.student, parts.family, transformer)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return True
