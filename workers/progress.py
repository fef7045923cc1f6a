"""The last progress of what runs, on its way to SQL.

Once a second at most, all of it in one transaction that need not survive a crash: whoever polls sees how far a
prediction is; whoever wants each step listens to its events. What ends within that second costs nothing.
"""

import logging
import threading
from collections.abc import Iterable

from headway.errors import StorageUnavailable
from storage.predictions import Predictions

log = logging.getLogger(__name__)

_EVERY_S = 1.0


class Progress:
    """One thread for all runners of a worker, asleep while no model reports anything."""

    def __init__(self, predictions: Predictions) -> None:
        self._predictions = predictions
        self._lock = threading.Lock()
        self._last: dict[str, tuple[str, bytes]] = {}  # prediction id → (claim, JSON)
        self._something = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """What was not written yet is not missed: what it is about has ended, or is handed back."""
        self._stopping.set()
        self._something.set()
        self._thread.join(5.0)

    def said(self, id_: str, claim: str, json: bytes) -> None:
        """Takes the place of what was said before."""
        with self._lock:
            self._last[id_] = (claim, json)
        self._something.set()

    def forget(self, ids: Iterable[str]) -> None:
        """These are about to end: what they last said is of no use any more."""
        if self._last:
            with self._lock:
                for id_ in ids:
                    self._last.pop(id_, None)

    def _run(self) -> None:
        while self._something.wait() and not self._stopping.wait(_EVERY_S):
            self._something.clear()
            with self._lock:
                last, self._last = self._last, {}
            try:
                self._predictions.progress([(id_, claim, json) for id_, (claim, json) in last.items()])
            except StorageUnavailable as error:
                log.debug("sql is away, a progress is not written: %s", error)
