"""How far the rollouts may be behind the learner: which versions are published, and with which a step rolls out."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Lag:
    """Step `s` rolls out with the newest published policy version that is at most s - steps; 0 and 1 is strictly on-policy.

    This is the whole of flow control: publishing version `v` admits exactly the steps whose version is `v`.

    >>> [Lag(2).version(step) for step in range(6)]
    [0, 0, 0, 1, 2, 3]
    >>> [Lag(0).version(step) for step in range(6)]
    [0, 1, 2, 3, 4, 5]
    >>> [Lag(1, published_every=3).version(step) for step in range(8)]
    [0, 0, 0, 0, 3, 3, 3, 6]

    Attributes:
        steps: optimizer steps that the rollouts are behind at least, not negative.
        published_every: the optimizer steps from one published version to the next, at least 1. Rollouts are at most
            steps + published_every - 1 behind.

    Raises:
        ValueError: if `steps` is negative, or `published_every` less than 1.
    """

    steps: int
    published_every: int = 1

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError(f"lag = {self.steps}; it must not be negative")
        if self.published_every < 1:
            raise ValueError(f"published every {self.published_every} steps; it must be 1 or more")

    def publishes(self, version: int) -> bool:
        """Whether the student after `version` optimizer steps is published."""
        return version % self.published_every == 0

    def version(self, step: int) -> int:
        """The policy version that an optimizer step (0-based) rolls out with; never an older one than a step before it."""
        newest = max(0, step - self.steps)
        return newest - newest % self.published_every
