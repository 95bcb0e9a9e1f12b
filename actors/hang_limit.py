"""How long a call may take before who answers it is taken to hang."""

_TIMES_THE_LONGEST = 10.0


class HangLimit:
    """A limit per kind of call, by what such calls have taken so far.

    A process that waits for a device for ever looks alive to everybody who asks it something else, so only the time of the call
    tells. Who is ended wrongly costs a start and nothing else: each limit that was reached doubles, so that a call which does
    take longer is answered at last.

    Args:
        least_s: no limit is shorter.
        first_s: the limit before any call of a kind was answered: it may compile kernels, or load weights.
    """

    def __init__(self, least_s: float, first_s: float):
        self._least_s = least_s
        self._first_s = first_s
        self._longest_s: dict[str, float] = {}
        self._factor: dict[str, float] = {}

    def seconds(self, kind: str) -> float:
        """The limit of a call that is made now."""
        longest = self._longest_s.get(kind)
        least = self._first_s if longest is None else max(self._least_s, _TIMES_THE_LONGEST * longest)
        return least * self._factor.get(kind, 1.0)

    def answered(self, kind: str, seconds: float) -> None:
        """A call was answered after so many seconds: from now on that is known, and no guess is needed."""
        self._longest_s[kind] = max(seconds, self._longest_s.get(kind, 0.0))
        self._factor.pop(kind, None)

    def reached(self, kind: str, limit_s: float) -> None:
        """A call was given up after so many seconds, its limit. Of calls that reach one limit together the first doubles it."""
        if limit_s >= self.seconds(kind):
            self._factor[kind] = 2.0 * self._factor.get(kind, 1.0)
