"""Rows that no hint brought: an idle window asks SQL itself.

The janitor republishes what Redis has lost, ten seconds and more later. A device with nothing to do need not wait that
long, nor for Redis to come back: it takes the oldest queued rows of its lines straight from SQL. This costs a read now
and then, only while idle; a row that another worker's hint brings too is claimed by whoever comes first.
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
            now = time.monotonic()
            idle = [w for w in self._windows() if w.empty and not w.paused and now - w.offered_at >= _EVERY_S]
            try:
                if idle:
                    before = self._predictions.now() - _AGE_US
                    for window in idle:
                        self._ask(window, before)
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
