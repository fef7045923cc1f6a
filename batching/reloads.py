"""When a device process may be ended on purpose, given what a fresh one costs. No clock, no I/O."""

import math

#: Reloads on purpose may use this share of the time since the last one; those after a death are not counted.
SHARE = 0.1


class Reloads:
    """Of one instance. Times are seconds, of whatever clock its owner has."""

    def __init__(self) -> None:
        self.seconds = math.inf  # what a reload takes: the last one
        self._last = -math.inf

    def chosen(self, now: float) -> None:
        self._last = now

    def affordable(self, now: float) -> bool:
        return self.seconds <= SHARE * (now - self._last)

    def worthwhile(self, ran: float, pace: float) -> bool:
        """Whether a call nobody wants should last longer than a reload. `pace`: what calls take, NaN if not known.

        One that is over its pace, or has none to be held against, should last as long again as it has run.
        """
        left = pace - ran if pace > ran else ran
        return left > self.seconds
