"""Where a run begins: at its first step, or at a checkpoint."""

from dataclasses import dataclass
from pathlib import Path

from fields import checkpoint
from pipelines.config.errors import ConfigError
from pipelines.config.recipe import completed, recipe, recipe_differences, recorded_ranks
from pipelines.config.run import RunConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The first step to do, and the checkpoint that it continues from, with the device that it was made on where it says so,
    and the number of ranks that ordered its sums."""

    step: int = 0
    checkpoint: Path | None = None
    device: str | None = None
    ranks: int = 1

    @staticmethod
    def find(config: RunConfig, resume: str) -> "Origin":
        """Where a run begins that is asked to continue from its newest checkpoint (`auto`), from nothing (`never`), or from
        a folder.

        Raises:
            ConfigError: if the checkpoint is damaged or was written with other settings that decide the result.
        """
        if resume == "never":
            return Origin()
        path = checkpoint.newest(config.folder / "checkpoints") if resume == "auto" else Path(resume)
        if path is None:
            return Origin()
        saved = _fitting(config, path)
        return Origin(step=saved.step, checkpoint=path, device=saved.device, ranks=recorded_ranks(saved.recipe))


def _fitting(config: RunConfig, path: Path) -> checkpoint.Checkpoint:
    try:
        saved = checkpoint.read(path)
    except ValueError as error:
        raise ConfigError(f"--resume: {error}") from error
    try:
        differences = recipe_differences(recipe(config), completed(saved.recipe, config), saved.step)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ConfigError(f"{path} is no complete checkpoint: its recipe is damaged") from error
    if differences:
        raise ConfigError(
            f"{path} was written with other settings: {'; '.join(differences)}. Restore them, name another run, "
            "or start over with --resume never"
        )
    if saved.step > config.run.steps:
        raise ConfigError(f"run.steps: {path} has {saved.step} steps already, more than {config.run.steps}")
    return saved
