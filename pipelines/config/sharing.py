"""A full student that the learner's ranks share: the one case in which their number orders sums, and so changes last bits."""

from pipelines.config.run import RunConfig
from pipelines.config.student import FullStudentConfig


def shares_student(config: RunConfig) -> bool:
    """Whether each of the learner's ranks holds a shard of what is trained, instead of all of it."""
    return config.learner.shard and isinstance(config.student, FullStudentConfig)


def summing_ranks(config: RunConfig) -> int:
    """Into how many ranks' parts the sums of a gradient are split: 1 if they are the sums of one process."""
    return config.learner.ranks if shares_student(config) else 1


def alone(config: RunConfig) -> RunConfig:
    """The same run by one process, which shares nothing."""
    return config.model_copy(update={"learner": config.learner.model_copy(update={"ranks": 1, "shard": False})})
