"""Results on their way to SQL: group commit of finished micro-batches.

Whatever has finished while the last transaction committed goes into the next one, so the cost of an fsync is shared.
A result is kept and tried again for as long as this worker lives: if its lease is lost meanwhile, the fence turns the
late write away.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TypeVar

from headway import failpoints
from headway.errors import StorageUnavailable
from headway.notices import Ended
from storage.predictions import Predictions
from storage.running import Finished
from workers.publisher import Publisher
from workers.watchdog import Life

log = logging.getLogger(__name__)

#: Finished micro-batches that may wait for SQL; the device stops beyond that.
_BEHIND = 8
#: Rows of batches' items in one transaction: others wait for its end.
_BULK_ROWS = 256
#: Those of one claim are written together, if the rest comes so soon.
_REST_S = 0.005


@dataclass(frozen=True, slots=True)
class Settled:
    """The parts of one device call, by claim, and what to do once they are in SQL."""

    parts: list[Finished]
    done: Callable[[dict[str, Ended]], None]  # told what of these parts became terminal, and of no others
    bulk: bool = False  # items of batches, which others need not wait for
    unheard: Collection[str] = ()  # ids that nobody is told of: who wants to know looks

    @property
    def rows(self) -> int:
        return sum(len(part.outcomes) for part in self.parts)

    def among(self, ended: Mapping[str, Ended]) -> dict[str, Ended]:
        """What of a group became terminal by these parts."""
        fences = ((outcome.id, part.claim) for part in self.parts for outcome in part.outcomes)
        return {id_: ended[id_] for id_, claim in fences if id_ in ended and ended[id_].claim == claim}


class Finisher:
    """One thread for all runners of a worker. What belongs to one claim is written in the order in which it came."""

    def __init__(self, predictions: Predictions, publisher: Publisher) -> None:
        self._predictions = predictions
        self._publisher = publisher
        self._changed = threading.Condition()
        self._settled: deque[Settled] = deque()
        self._bulk: deque[Settled] = deque()
        self._closing = False
        self._taken = False  # what was taken out of the queues is not written yet
        self._writing_bulk = False
        self._writing = threading.Lock()
        self.life = Life("who writes results")
        self.life.rests()
        self._thread = threading.Thread(target=self._run, name="finisher", daemon=True)
        self._thread.start()

    def put(self, settled: Settled, *, at_once: bool = False) -> None:
        """Blocks while SQL is too far behind. `at_once`: write it here and now, if nothing else is being written."""
        with self._changed:
            waiting = self._queue_for(settled)
            free = not self._taken and not waiting and waiting is self._settled
            here = at_once and free and self._writing.acquire(blocking=False)
        if here:
            try:
                with self.life.at_work():
                    self._write([settled])
            finally:
                self._writing.release()
            return
        with self._changed:
            self._changed.wait_for(lambda: len(waiting) < _BEHIND)
            waiting.append(settled)
            self._changed.notify_all()

    def _queue_for(self, settled: Settled) -> deque[Settled]:
        """Behind what waits of its claims: who writes the last part of a claim forgets the claim."""
        claims = {part.claim for part in settled.parts}
        for queue in (self._bulk, self._settled):
            if any(part.claim in claims for waiting in queue for part in waiting.parts):
                return queue
        return self._bulk if settled.bulk else self._settled

    @property
    def bulk_waiting(self) -> bool:
        """Whether results of batches' items are not written yet."""
        return bool(self._bulk) or self._writing_bulk

    def close(self, timeout_s: float) -> bool:
        """Whether everything was written in time."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        bulk_next = False
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._settled or self._bulk or self._closing)
                if not self._settled and not self._bulk:
                    return
                self._changed.wait_for(lambda: self._settled or self._ripe() or self._closing, _REST_S)
                group = self._take(bulk_next)
                self._taken, self._writing_bulk = True, group[0].bulk
                self._changed.notify_all()
            bulk_next = not group[0].bulk  # in turn, so that nobody is passed over for ever
            with self._writing, self.life.at_work():
                self._write(group, taken=True)

    def _ripe(self) -> bool:
        """Whether what waits of batches' items is a transaction's worth, or the last of a claim."""
        if any(part.settled for waiting in self._bulk for part in waiting.parts):
            return True
        return sum(waiting.rows for waiting in self._bulk) >= _BULK_ROWS

    def _take(self, bulk_next: bool) -> list[Settled]:
        """All that waits, or of batches' items, which come when it is their turn or nothing else does, only so many."""
        if self._settled and not (bulk_next and self._bulk):
            group = list(self._settled)
            self._settled.clear()
            return group
        group = [self._bulk.popleft()]
        rows = group[0].rows
        while self._bulk and (rows := rows + self._bulk[0].rows) <= _BULK_ROWS:
            group.append(self._bulk.popleft())
        return group

    def _write(self, group: list[Settled], *, taken: bool = False) -> None:
        """`taken`: out of the queues."""
        parts = [part for settled in group for part in settled.parts]
        ended = persist(lambda: self._finish(parts))
        if taken:  # said before anybody is told that it is done: who is woken by that asks whether something waits
            self._taken = self._writing_bulk = False
        unheard = {id_ for settled in group for id_ in settled.unheard}
        self._publisher.ended({id_: one for id_, one in ended.items() if id_ not in unheard} if unheard else ended)
        for settled in group:
            settled.done(settled.among(ended))

    def _finish(self, parts: list[Finished]) -> dict[str, Ended]:
        self.life.goes_on()  # it may be the tenth try
        failpoints.hit("finish.begin", failpoints.storage_lost)
        ended = self._predictions.finish(parts)
        failpoints.hit("finish.committed", failpoints.storage_lost)
        return ended


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
