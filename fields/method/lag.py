"""How far the rollouts may be behind the learner: which version of the student a step rolls out with."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Lag:
    """Step `s` rolls out with policy version max(0, s - steps); 0 is strictly on-policy.

    This is the whole of flow control: publishing version `v` admits exactly the steps whose version is `v`.

    >>> [Lag(2).version(step) for step in range(6)]
    [0, 0, 0, 1, 2, 3]
    >>> [Lag(0).version(step) for step in range(6)]
    [0, 1, 2, 3, 4, 5]

    Attributes:
        steps: optimizer steps, not negative.

    Raises:
        ValueError: if `steps` is negative.
    """

    steps: int

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError(f"lag = {self.steps}; it must not be negative")

    def version(self, step: int) -> int:
        """The policy version that an optimizer step (0-based) rolls out with."""
        return max(0, step - self.steps)

    def first_needed(self, step: int) -> int:
        """The oldest published version that `step` or a later step still needs: versions never go back.

        >>> Lag(2).first_needed(5)
        3
        """
        return self.version(step)
