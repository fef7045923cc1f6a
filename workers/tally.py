"""What a worker counts of one version that it serves, for operators to see."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from headway import broker
from headway.notices import Ended
from headway.quantiles import added, bucket
from headway.registry import Stats
from headway.states import Status
from headway.types import Claimed
from storage.workers import Served

#: Durations are kept for this long at least, and for twice as long at most.
_KEPT_S = 150.0
_WEIGHT = 0.3


class Tally:
    """Moved by runners, read once a beat."""

    def __init__(self, model: str, version: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._model, self._version = model, version
        self._clock = clock
        self._lock = threading.Lock()
        self._ended = self._failed = 0
        self._rate = 0.0
        self._counted = (clock(), 0)
        self._sizes: Counter[int] = Counter()
        self._seconds: Counter[int] = Counter()
        self._before: Mapping[int, int] = {}  # the durations of the last period
        self._turned = clock()
        self.busy_s = 0.0  # of all instances together

    def computed(self, items: int, took_s: float) -> None:
        """A micro-batch."""
        with self._lock:
            self._sizes[1 << max(0, items - 1).bit_length()] += 1
            self.busy_s += took_s

    def finished(self, rows: Sequence[Claimed], ended: Mapping[str, Ended]) -> None:
        """What ended with a result; how long an item of a batch takes from its acceptance on says nothing."""
        with self._lock:
            now = self._clock()
            if now - self._turned >= _KEPT_S:
                self._before = self._seconds if now - self._turned < 2 * _KEPT_S else {}
                self._seconds, self._turned = Counter(), now
            for row in rows:
                if (end := ended.get(row.id)) is not None and not broker.is_bulk(row.line):
                    self._seconds[bucket((end.completed_at - row.position) / 1e6)] += 1

    def ended(self, ended: Mapping[str, Ended]) -> None:
        """What became terminal, in whichever way."""
        with self._lock:
            self._ended += len(ended)
            self._failed += sum(one.status is Status.FAILED for one in ended.values())

    def served(self) -> Served:
        """Asked once a beat."""
        with self._lock:
            now = self._clock()
            since, before = self._counted
            if now > since:
                self._rate += _WEIGHT * ((self._ended - before) / (now - since) - self._rate)
            self._counted = (now, self._ended)
            stats = Stats(failed=self._failed, seconds=added((self._before, self._seconds)), sizes=dict(self._sizes))
            return Served(model=self._model, version=self._version, ended=self._ended, rate=self._rate, stats=stats)
