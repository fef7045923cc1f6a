"""Rows that no hint brought: an idle window asks SQL itself.

The janitor republishes what Redis has lost, ten seconds and more later. A device with nothing to do need not wait that
long, nor for Redis to come back: it takes the oldest queued rows of its lines straight from SQL. A steady trickle of
hints must not keep it from that, or what was lost before them waits for the janitor; so it also asks now and then for
what is older while its window is empty for a moment only. This costs a read now and then, never while there is a
backlog; a row that another worker's hint brings too is claimed by whoever comes first.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence

from headway import broker
from headway.errors import StorageUnavailable
from storage.predictions import Predictions
from workers.watchdog import Life
from workers.window import Window

log = logging.getLogger(__name__)

_EVERY_S = 0.5
#: Younger rows have a hint on its way.
_AGE_US = 1_000_000
#: The same where hints come in, so that the next may be about to bring it; and how often it is asked for them then.
_BUSY_AGE_US = 3_000_000
_BUSY_EVERY_S = 2.0


class Stragglers:
    """One thread for all windows of a worker."""

    def __init__(
        self, windows: Callable[[], Sequence[Window]], predictions: Predictions, classes: Callable[[], Iterable[int]]
    ) -> None:
        """`windows` and `classes` (of tenants): those that there are now."""
        self._windows = windows
        self._predictions = predictions
        self._classes = classes
        self._asked = 0
        self._asked_busy = -_BUSY_EVERY_S  # when windows were last asked for that hints come into, monotonic
        self.life = Life("who asks SQL for what no hint brought")
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stragglers", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stopping.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        while not self._stopping.wait(_EVERY_S):
            self.life.goes_on()
            empty = [window for window in self._windows() if window.empty and not window.paused]
            now = time.monotonic()
            idle = [window for window in empty if now - window.offered_at >= _EVERY_S]
            busy = [window for window in empty if window not in idle] if now - self._asked_busy >= _BUSY_EVERY_S else []
            try:
                if idle or busy:
                    at = self._predictions.now()
                    for window in idle:
                        self._ask(window, at - _AGE_US)
                    for window in busy:
                        self._ask(window, at - _BUSY_AGE_US)
                if busy:
                    self._asked_busy = now
            except StorageUnavailable as error:
                log.debug("sql is away: %s", error)

    def _ask(self, window: Window, before: int) -> None:
        lines = broker.all_lines(window.model, window.version, self._turned())
        waiting = self._predictions.waiting(dict.fromkeys(lines, before))
        for line in lines:
            found = (
                self._predictions.oldest_queued(line, window.max_batch_size, before=before) if line in waiting else ()
            )
            if found:
                window.offer(found, tenant_class=broker.parse_line(line).tenant_class)
                return

    def _turned(self) -> list[int]:
        """The classes, each time with another one in front: within a step they are served in turn."""
        classes = list(self._classes())
        self._asked += 1
        turn = self._asked % len(classes)
        return classes[turn:] + classes[:turn]
