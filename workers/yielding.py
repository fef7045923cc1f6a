"""How items of batches make way for predictions that somebody waits for.

While such have come lately, a batch runs one micro-batch after the other and not two at once, of so few items that the
work around the device (claim, finish) takes no longer than the device does, and with a pause as long as that work
between them. To a device that takes its time this is nothing; where SQL and not the device is the limit, the machine is
the others' for half of the time.
"""

import math
import time
from collections.abc import Callable

from batching.policy import UNHURRIED, Pace

#: How long one that somebody waits for is followed by others, probably.
_LATELY_S = 0.5
#: Seconds of work around the device for an item: measured, SQLite.
_ITEM_S = 120e-6
_FEWEST = 16
#: The pause after the work around a micro-batch, as a part of it.
_REST = 1.0
_WEIGHT = 0.2


class Hurry:
    """One for a worker: when something came last that is no item of a batch."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._at = -math.inf

    def note(self) -> None:
        self._at = self.clock()

    @property
    def lately(self) -> bool:
        return self.clock() - self._at < _LATELY_S


class Yielding:
    """One for a runner. Moved by whoever writes results, read by whoever forms micro-batches."""

    def __init__(self, hurry: Hurry) -> None:
        self._hurry = hurry
        self._device_s = 0.0  # of a micro-batch, moving average
        self._rested_at = 0.0  # monotonic

    def pace(self, *, busy: bool) -> Pace:
        """`busy`: a micro-batch of items of batches is under way."""
        if not self._hurry.lately:
            return UNHURRIED
        return Pace(math.inf if busy else self._rested_at, max(_FEWEST, int(self._device_s / _ITEM_S)))

    def ended(self, began: float, device_s: float) -> None:
        """A micro-batch is written; it was taken at `began` (monotonic)."""
        now = self._hurry.clock()
        self._device_s += _WEIGHT * (device_s - self._device_s)
        self._rested_at = now + max(0.0, now - began - device_s) * _REST
