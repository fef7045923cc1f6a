"""How often a key may call: a token bucket for each key and API process."""

import math
import time

from api import metrics
from api.problems import Problem


class Bucket:
    """Filled with `rate` tokens a second, up to a second's worth, or one. A request takes one."""

    __slots__ = ("_at", "_burst", "_tokens", "rate")

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._burst = max(1.0, rate)
        self._tokens = self._burst
        self._at = time.monotonic()

    def take(self, now: float | None = None) -> None:
        """`now`: monotonic seconds. Raises Problem rate_limited where the bucket is empty."""
        now = time.monotonic() if now is None else now
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self.rate)
        self._at = now
        if self._tokens < 1:
            metrics.refused("rate_limited")
            raise Problem(
                "rate_limited",
                f"This key may make {self.rate:g} requests a second.",
                headers=((b"retry-after", b"%d" % math.ceil((1 - self._tokens) / self.rate)),),
            )
        self._tokens -= 1
