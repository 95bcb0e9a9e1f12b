"""What a run says when a process has no memory for its largest group."""

from fields.memory.rehearsal import DoesNotFit
from pipelines.config.errors import ConfigError

LEARNER = "the learner"
ROLLOUT = "a rollout worker"


def too_large(who: str, error: DoesNotFit) -> ConfigError:
    """Who it is, for how much it has no memory, and the key to lower."""
    remedy = "learner.micro_batch, or set learner.recompute=always" if who == LEARNER else "rollout.group_size"
    return ConfigError(f"{who} has {error}; lower {remedy}")
