"""How the student is updated."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimization:
    """How the student is updated: AdamW without weight decay.

    Attributes:
        learning_rate: of AdamW, at its highest.
        betas: of AdamW.
        warmup_steps: steps over which the rate rises from 0.
        decay: from the first of these numbers of steps to the second the rate falls linearly to 0; None is the paper's
            constant rate.
        clip: largest norm of the gradient.
        ema_decay: of the moving average that is evaluated and exported beside the student, in [0, 1).
        micro_batch: most samples of one forward and backward; None takes every group whole. It orders the sums of a
            gradient, and so it is part of what decides a student's last bits.
        recompute: whether a block's activations are computed again in the backward instead of kept (Chen et al.,
            arXiv 1604.06174): a fraction of the memory for about a third more time, and the same bits.
    """

    learning_rate: float = 2e-4
    betas: tuple[float, float] = (0.9, 0.999)
    warmup_steps: int = 0
    decay: tuple[int, int] | None = None
    clip: float = 1.0
    ema_decay: float = 0.99
    micro_batch: int | None = None
    recompute: bool = False

    def rate(self, update: int) -> float:
        """The learning rate of an update, the first of which is number 1.

        >>> schedule = Optimization(learning_rate=1.0, warmup_steps=4, decay=(6, 9))
        >>> [schedule.rate(update) for update in (1, 4, 6, 8, 10)]
        [0.25, 1.0, 1.0, 0.5, 0.0]
        """
        rising = min(1.0, update / max(1, self.warmup_steps))
        if self.decay is None:
            return self.learning_rate * rising
        first, last = self.decay
        return self.learning_rate * rising * min(1.0, max(0.0, (last + 1 - update) / (last + 1 - first)))
