"""Results on their way to SQL: group commit of finished micro-batches.

Whatever has finished while the last transaction committed goes into the next one, so the cost of an fsync is shared.
A result is kept and tried again for as long as this worker lives: if its lease is lost meanwhile, the fence turns the
late write away.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TypeVar

from headway.errors import StorageUnavailable
from headway.notices import Ended
from storage.predictions import Finished, Predictions
from workers.publisher import Publisher

log = logging.getLogger(__name__)

#: Finished micro-batches that may wait for SQL; the device stops beyond that.
_BEHIND = 8


@dataclass(frozen=True, slots=True)
class Settled:
    """The parts of one device call, by claim, and what to do once they are in SQL."""

    parts: list[Finished]
    done: Callable[[dict[str, Ended]], None]
    unheard: Collection[str] = ()  # ids that nobody is told of: who wants to know looks


class Finisher:
    """One thread for all runners of a worker."""

    def __init__(self, predictions: Predictions, publisher: Publisher) -> None:
        self._predictions = predictions
        self._publisher = publisher
        self._settled: queue.Queue[Settled | None] = queue.Queue(_BEHIND)
        self._writing = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="finisher", daemon=True)
        self._thread.start()

    def put(self, settled: Settled, *, at_once: bool = False) -> None:
        """Blocks while SQL is too far behind. `at_once`: write it here and now, if nothing else is being written."""
        if at_once and self._settled.empty() and self._writing.acquire(blocking=False):
            try:
                self._write([settled])
            finally:
                self._writing.release()
        else:
            self._settled.put(settled)

    def close(self, timeout_s: float) -> bool:
        """Whether everything was written in time."""
        try:
            self._settled.put(None, timeout=timeout_s)
        except queue.Full:
            return False
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        last = False
        while not last:
            group = [self._settled.get()]
            while True:
                try:
                    group.append(self._settled.get_nowait())
                except queue.Empty:
                    break
            last = None in group
            settled = [one for one in group if one is not None]
            if settled:
                with self._writing:
                    self._write(settled)

    def _write(self, group: list[Settled]) -> None:
        parts = [part for settled in group for part in settled.parts]
        ended = persist(lambda: self._predictions.finish(parts))
        unheard = {id_ for settled in group for id_ in settled.unheard}
        self._publisher.ended({id_: one for id_, one in ended.items() if id_ not in unheard} if unheard else ended)
        for settled in group:
            settled.done(ended)


T = TypeVar("T")


def persist(write: Callable[[], T]) -> T:
    """Tries until SQL takes it."""
    pause = 0.05
    while True:
        try:
            return write()
        except StorageUnavailable as error:
            log.warning("sql is away, a result waits: %s", error)
            time.sleep(pause)
            pause = min(pause * 2, 2.0)
