"""What is left in the blob store without a row: purged predictions, and whatever a process left that died in between.

On a thread of its own in the utility worker, since a store may be slow: the janitor says what it has purged, and once
an hour all that is there is compared with SQL, day by day. What is younger than a day is left alone, since a blob is
written before its row. Several sweepers do each other no harm.
"""

import datetime
import logging
import queue
import threading
import time
from collections.abc import Iterable

from headway.clock import now_us
from headway.errors import BlobsUnavailable, StorageUnavailable
from storage.blobs import Blobs
from storage.predictions import Predictions

log = logging.getLogger(__name__)

PERIOD_S = 3600.0
_PAGE = 500
#: Purged predictions that may wait to be removed; the next round finds those that do not fit.
_MOST_WAITING = 100_000


class Sweeper:
    """`run` until stopped."""

    def __init__(self, blobs: Blobs, predictions: Predictions, *, period_s: float = PERIOD_S) -> None:
        self._blobs = blobs
        self._predictions = predictions
        self._period_s = period_s
        self._purged: queue.Queue[str] = queue.Queue(_MOST_WAITING)

    def forget(self, ids: Iterable[str]) -> None:
        """These rows are gone. Never blocks."""
        for id_ in ids:
            try:
                self._purged.put_nowait(id_)
            except queue.Full:
                return

    def run(self, stopping: threading.Event) -> None:
        next_round = time.monotonic() + min(60.0, self._period_s)  # not while everything starts
        while not stopping.wait(1.0):
            try:
                self.remove_purged()
                if time.monotonic() >= next_round:
                    next_round = time.monotonic() + self._period_s
                    self.sweep(stopping)
            except (BlobsUnavailable, StorageUnavailable) as error:
                log.warning("what is left in the blob store waits: %s", error)

    def remove_purged(self) -> None:
        """Raises BlobsUnavailable."""
        while not self._purged.empty():
            self._blobs.forget(self._purged.get())

    def sweep(self, stopping: threading.Event) -> int:
        """One round over all days but the last two; how many predictions' blobs went. Raises like its stores."""
        gone = 0
        today = datetime.datetime.fromtimestamp(now_us() / 1e6, datetime.UTC).date()
        yesterday = (today - datetime.timedelta(days=1)).isoformat()
        for day in self._blobs.days():
            if day >= yesterday:
                break
            ids = self._blobs.of_day(day)
            for page in (ids[start : start + _PAGE] for start in range(0, len(ids), _PAGE)):
                if stopping.is_set():
                    return gone
                there = self._predictions.with_blobs(page)
                for id_ in page:
                    if id_ not in there:
                        self._blobs.forget(id_)
                        gone += 1
            self._blobs.forget_day(day)
        if gone:
            log.info("%d predictions' blobs had no row and are gone", gone)
        return gone
