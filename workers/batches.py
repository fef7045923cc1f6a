"""Looks after batches: publishes the hints of their items a little ahead of the workers, counts what has ended, and
ends them.

`BatchKeeper.run` in a thread of the utility worker, any number of them at once: every step is a compare-and-set on the
batch's row, so two keepers publish nothing twice and count nothing twice, and nothing is lost with one that dies.

Redis holds only so many hints of batches that the workers do not run dry before the next look. What was published and
reached no worker (Redis lost it, or the worker that had it in its window died) is found because a batch is fed in the
order of its lines: an item that has not been taken, though lines behind it were taken ten seconds ago, is published
again; and so is the rest when nothing moves any more, in the line or, for longer, in the batch.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import redis

from headway import broker
from headway.batches import ABANDONED_S, Batch, BatchStatus, Counts
from headway.errors import StorageUnavailable
from headway.types import Hint
from storage.batches import Batches
from storage.engine import Database
from storage.models import Models
from workers import metrics
from workers.marks import PATIENCE_S
from workers.publisher import Publisher
from workers.watchdog import Life

log = logging.getLogger(__name__)

#: Between two looks, while there are batches and while there are none.
_BUSY_S, _IDLE_S = 0.1, 0.5
#: Ids of one line in Redis. It begins with few, so that a more urgent batch need not stand behind many.
_LEAST_AHEAD, _MOST_AHEAD = 256, 32_768
#: Micro-batches that share an envelope: a worker fetches them at once, and of items that nobody waits for it may.
_MICRO_BATCHES = 4
#: How often it is noted how far workers have come.
_NOTE_S = 1.0
#: How often it is counted how many have ended beyond the first that has not, and how far that looks.
_GLANCE_S = 1.0
_GLANCE = 20_000
#: After so many times the patience without any end, a batch that is all published is published again from where it
#: stands: others may keep its line full.
_STOOD = 6
#: Hints published again at a time.
_AGAIN = 1_000
#: The moving average of a batch's pace forgets with this half-life.
_RATE_S = 10.0


@dataclass(slots=True)
class _Line:
    """A line of Redis that batches are fed to."""

    ahead: int = _LEAST_AHEAD  # ids that it should hold
    drained: float = 0.0  # monotonic; since when it has been empty, 0 while it is not


@dataclass(slots=True)
class _Watch:
    """What this process has seen of a batch."""

    taken: deque[tuple[float, int]] = field(default_factory=deque)  # (when, the last line that a worker had taken)
    stood: float | None = None  # since when nothing of it has ended, or was published again
    ended_to: int = 0  # queued items up to this line were ended
    glanced_at: float = 0.0
    done: tuple[float, int] | None = None  # (when, how many had ended) when they were last counted
    rate: float | None = None

    def pace(self, done: int, now: float) -> float | None:
        """Items a second, lately, after so many have ended."""
        if self.done is not None and done > self.done[1] and now > self.done[0]:
            elapsed = now - self.done[0]
            lately = (done - self.done[1]) / elapsed
            weight = 0.5 ** (elapsed / _RATE_S)
            self.rate = lately if self.rate is None else weight * self.rate + (1 - weight) * lately
        self.done = (now, done)
        return self.rate


class BatchKeeper:
    """`step` is one look; `run` one after the other until stopped."""

    def __init__(
        self,
        database: Database,
        client: "redis.Redis",
        publisher: Publisher,
        *,
        patience_s: float = PATIENCE_S,
        abandoned_s: float = ABANDONED_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`patience_s`: how long an item must have been passed by before its hint counts as lost."""
        self._batches = Batches(database)
        self._models = Models(database)
        self._redis = client
        self._publisher = publisher
        self._patience_s = patience_s
        self._abandoned_s = abandoned_s
        self._clock = clock
        self._lines: dict[str, _Line] = {}
        self._watches: dict[str, _Watch] = {}
        self._at_most: dict[tuple[str, str], int] = {}
        self.life = Life("who looks after batches")

    def run(self, stopping: threading.Event) -> None:
        pause = _IDLE_S
        while not stopping.wait(pause):
            self.life.goes_on()
            try:
                pause = _BUSY_S if self.step() else _IDLE_S
            except StorageUnavailable as error:
                log.warning("sql is away, batches wait: %s", error)
                pause = _IDLE_S

    def step(self) -> bool:
        """Whether there are batches. Raises StorageUnavailable."""
        batches = self._batches.open()
        metrics.OPEN_BATCHES.set(len(batches))
        self._watches = {batch.id: self._watches.get(batch.id) or _Watch() for batch in batches}
        self._feed([batch for batch in batches if batch.status is BatchStatus.IN_PROGRESS and batch.ending is None])
        for batch in batches:
            self.life.goes_on()
            watch = self._watches[batch.id]
            if batch.ending is not None:
                self._end(batch, watch)
            elif batch.status is BatchStatus.VALIDATING:
                self._batches.abandon(batch.id, "The upload was never completed.", untouched_s=self._abandoned_s)
            elif batch.expires_at is not None:
                self._batches.expire(batch.id)
            if batch.sealed_at is not None or batch.ending is not None:
                self._count(batch, watch)
        return bool(batches)

    # Feeding

    def _feed(self, batches: list[Batch]) -> None:
        by_line: dict[str, list[Batch]] = {}
        for batch in batches:
            by_line.setdefault(batch.line, []).append(batch)
        self._lines = {name: self._lines.get(name) or _Line() for name in by_line}
        try:
            for name, fed in by_line.items():
                self._feed_line(name, self._lines[name], fed)
        except redis.RedisError as error:
            log.warning("redis is away, batches are not fed: %s", error)

    def _feed_line(self, name: str, line: _Line, batches: list[Batch]) -> None:
        at_most = _MICRO_BATCHES * self._micro_batch(batches[0])
        there = self._redis.llen(name) * at_most
        if there == 0:
            line.ahead = min(line.ahead * 2, _MOST_AHEAD)
            line.drained = line.drained or self._clock()
        else:
            line.drained = 0.0
            if there > line.ahead // 2:
                line.ahead = max(line.ahead - line.ahead // 16, _LEAST_AHEAD)
        if there <= line.ahead // 2:
            room = line.ahead - there
            for batch in batches:
                room -= self._publish_next(name, batch, room, at_most)
                if room < at_most:
                    break
        for batch in batches:
            self._publish_lost(name, line, batch, there, at_most)

    def _publish_next(self, name: str, batch: Batch, room: int, at_most: int) -> int:
        """How many it published of those that never were."""
        if batch.fed >= batch.last_line or room <= 0:
            return 0
        found = self._batches.hints(batch.id, batch.fed, room)
        to = found[-1][0] if len(found) == room else batch.last_line
        if not self._batches.feed(batch.id, batch.fed, to):
            return 0  # another keeper did, or the batch is to end
        self._push(name, [(priority, hint) for _, priority, hint in found], at_most, tail=True)
        return len(found)

    def _publish_lost(self, name: str, line: _Line, batch: Batch, there: int, at_most: int) -> None:
        """Once a second. To the head of the line: they are older than all that is there. `there`: ids in it."""
        watch, now = self._watches[batch.id], self._clock()
        if watch.taken and now - watch.taken[-1][0] < _NOTE_S:
            return
        watch.taken.append((now, self._batches.farthest(batch)))
        while len(watch.taken) > 1 and watch.taken[1][0] <= now - self._patience_s:
            watch.taken.popleft()
        since, passed = watch.taken[0]
        drained = line.drained > 0 and now - line.drained >= self._patience_s
        stands = watch.stood is not None and now - watch.stood >= _STOOD * self._patience_s
        if drained or (stands and batch.fed >= batch.last_line and there <= _MOST_AHEAD):
            passed = batch.fed + 1
        elif now - since < self._patience_s:
            return
        lost = [one for one in self._batches.hints(batch.id, batch.counted, _AGAIN) if one[0] < passed]
        if lost:
            log.warning("%d hints of a batch reached no worker: published again", len(lost), extra={"batch": batch.id})
            self._push(name, [(priority, hint) for _, priority, hint in lost], at_most, tail=False)
            metrics.recovered_hints((batch.model, batch.version), len(lost))
            watch.taken.clear()
            watch.stood = now
            line.drained = 0.0

    def _push(self, line: str, hints: list[tuple[int, Hint]], at_most: int, *, tail: bool) -> None:
        made = [wire for _, wire in broker.envelopes(line, hints, at_most=at_most)] if hints else []
        if made and tail:
            self._redis.lpush(line, *made)
        elif made:
            self._redis.rpush(line, *made[::-1])

    def _micro_batch(self, batch: Batch) -> int:
        """`max_batch_size` of its model version."""
        key = (batch.model, batch.version)
        if key not in self._at_most:
            self._at_most |= {
                (row.model, row.version): row.manifest.batching.max_batch_size for row in self._models.all()
            }
        return self._at_most.get(key, 32)

    # Ending

    def _end(self, batch: Batch, watch: _Watch) -> None:
        """What has not begun ends now, what has begun by itself, or by the cancel it is told of."""
        after: int | None = max(watch.ended_to, batch.counted)
        give_up = self._clock() + 1.0
        while after is not None and after < batch.last_line and self._clock() < give_up:
            reached, ended = self._batches.end_items(batch, after)
            self._publisher.ended(ended)
            after = reached
            watch.ended_to = batch.last_line if reached is None else reached
        if batch.ending is BatchStatus.CANCELED and (running := self._batches.cancel_running(batch)):
            self._publisher.cancel(running)

    def _count(self, batch: Batch, watch: _Watch) -> None:
        counted, more = self._batches.tally(batch)
        ahead, now = batch.ahead, self._clock()
        # While nothing holds it up the count is near the workers; what ended beyond one that does is only glanced at.
        if counted > batch.counted or now - watch.glanced_at >= _GLANCE_S:
            held_up = batch.ahead.total > 0 or counted == batch.counted
            ahead = self._batches.glance(batch.id, counted, min(counted + _GLANCE, batch.fed)) if held_up else Counts()
            watch.glanced_at = now
        if more.total or ahead != batch.ahead or watch.stood is None:
            watch.stood = now
        if more.total or ahead != batch.ahead:
            self._batches.count(batch, counted, more, ahead, watch.pace((batch.counts + more + ahead).total, now))
        if counted >= batch.last_line and (ended := self._batches.complete(batch.id)) is not None:
            metrics.ENDED_BATCHES.labels(status=ended.status.label).inc()
            log.info("a batch has ended: %s", ended.status.label, extra={"batch": ended.id, "items": ended.total})
