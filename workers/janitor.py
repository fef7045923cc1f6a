"""What others left behind: dead workers' claims, lost hints, expired rows, and what ended long ago.

A plain loop, every two seconds. Every step is idempotent and skips locked rows, so several janitors do each other no
harm; a lease row keeps all but one of them from doing the same work twice. Nothing here depends on wall clocks of
different machines: a worker is dead when its beat stands still on this process's own monotonic clock.
"""

import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import redis

from headway import broker, failpoints
from headway.clock import new_id
from headway.errors import StorageUnavailable
from headway.settings import RETENTION_S
from headway.types import Hint
from storage.batches import Batches
from storage.engine import Database
from storage.models import Models
from storage.predictions import Predictions
from storage.returning import GivenBack
from storage.routes import Routes
from storage.tenants import Tenants
from storage.workers import JANITOR_LEASE_S, Workers
from workers import metrics
from workers.marks import Marks
from workers.publisher import Publisher
from workers.sweeper import Sweeper
from workers.watchdog import Life

log = logging.getLogger(__name__)

PERIOD_S = 2.0
#: A worker whose beat stood still this long is dead …
_DEAD_AFTER_S = 15.0
#: … if it was looked at this often meanwhile. A gap (a pause of ours, a database away) starts the count again.
_GAP_S = 3.0
#: Hints published for one line in one pass, at most.
_RECOVER_AT_MOST = 100_000
_PAGE = 5_000
#: Pages of rows looked at in one pass for what may go.
_PURGE_PAGES = 20


class Janitor:
    """`step` does one pass; `run` one every two seconds until stopped."""

    def __init__(
        self,
        database: Database,
        client: "redis.Redis",
        publisher: Publisher,
        *,
        marks: Marks | None = None,
        dead_after_s: float = _DEAD_AFTER_S,
        retention_s: float = RETENTION_S,
        sweeper: Sweeper | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._predictions = Predictions(database)
        self._batches = Batches(database)
        self._workers = Workers(database)
        self._models = Models(database)
        self._routes = Routes(database)
        self._tenants = Tenants(database)
        self._redis = client
        self._publisher = publisher
        self._marks = marks or Marks()
        self._sweeper = sweeper
        self._dead_after_s = dead_after_s
        self._retention_us = int(retention_s * 1e6)
        self._purged: str | None = None  # how far the present round has come
        self._clock = clock
        self._id = new_id()
        self._beats: dict[str, tuple[int, float]] = {}  # worker → (beat, since when it stands there)
        self._looked_at = -1e9
        self.life = Life("the janitor")

    def run(self, stopping: threading.Event) -> None:
        while not stopping.wait(PERIOD_S):
            self.life.goes_on()
            try:
                if self._workers.hold_lease("janitor", self._id, JANITOR_LEASE_S):
                    self.step()
            except StorageUnavailable as error:
                log.warning("sql is away, the janitor waits: %s", error)

    def step(self) -> None:
        """One pass over everything. Raises StorageUnavailable."""
        failpoints.hit("reconcile.begin")
        self._bury_workers()
        self._give_back()
        self._expire()
        self._recover_hints()
        self._purge()
        failpoints.hit("reconcile.end")

    def _bury_workers(self) -> None:
        now = self._clock()
        if now - self._looked_at > _GAP_S:
            self._beats.clear()
        self._looked_at = now
        beats = self._workers.beats()
        self._beats = {worker: seen for worker, seen in self._beats.items() if worker in beats}
        for worker, beat in beats.items():
            seen, since = self._beats.setdefault(worker, (beat, now))
            if seen != beat:
                self._beats[worker] = (beat, now)
            elif now - since >= self._dead_after_s and self._workers.mark_dead(worker, beat):
                metrics.DEAD_WORKERS.inc()
                log.warning("a worker is dead", extra={"worker_id": worker, "beat": beat})

    def _give_back(self) -> None:
        while True:
            self.life.goes_on()
            given = self._predictions.give_back_dead()
            if given:
                failpoints.hit("reconcile.given_back")
            self._announce(given)
            if not given.queued and not given.ended:
                break
            for line, count in Counter(line for line, _, _ in given.queued).items():
                model, version, *_ = broker.parse_line(line)
                metrics.lost_attempts((model, version), "worker_dead", count)
            log.warning("%d predictions of dead workers are queued again", len(given.queued))
        self._workers.forget_dead()

    def _announce(self, given: GivenBack) -> None:
        self._publisher.ended(given.ended)
        self._publisher.requeue(given.queued)
        metrics.given_back(given)

    def _expire(self) -> None:
        while expired := self._predictions.expire():
            self.life.goes_on()
            metrics.EXPIRED.inc(len(expired))
            self._publisher.ended(expired)

    def _purge(self) -> None:
        """Rounds from the oldest id to the youngest that may have ended before the retention, some pages a pass."""
        before = self._predictions.now() - self._retention_us
        gone = 0
        for _ in range(_PURGE_PAGES):
            self.life.goes_on()
            page = self._predictions.purge(before, after=self._purged)
            self._purged = page.last
            gone += page.gone
            if page.blobs and self._sweeper is not None:
                self._sweeper.forget(page.blobs)
            if self._purged is None:
                self._batches.purge(before)
                break
        if gone:
            log.info("%d predictions had ended before the retention and are gone", gone)

    def _recover_hints(self) -> None:
        """Republish what has left Redis without being claimed."""
        with contextlib.suppress(redis.RedisError):  # away: nothing to compare, and nothing to publish to
            now = self._clock()
            classes = self._tenants.classes()
            lines = self._watched(classes)
            due = {line: mark for line in lines if (mark := self._marks.due(line, now)) is not None}
            waiting = self._predictions.waiting(due)
            for line, mark in due.items():
                self.life.goes_on()
                if line in waiting:
                    self._recover(line, mark)
            heads, now = self._heads(lines), self._clock()
            for line, mark in heads.items():
                self._marks.note(line, now, mark)

    def _watched(self, classes: Iterable[int]) -> list[str]:
        """The lines of models that are not paused: while one is, what workers hold of it stays with them."""
        paused = {model for model, route in self._routes.all().items() if route.paused}
        lines = []
        for version in self._models.all():
            of_version = broker.all_lines(version.model, version.version, classes)
            if version.model not in paused:
                lines += of_version
            else:
                for line in of_version:
                    self._marks.forget(line)
        return lines

    def _heads(self, lines: Sequence[str]) -> dict[str, int]:
        """The position of each line's oldest hint in Redis; where there is none, two seconds before now."""
        empty = self._predictions.now() - int(PERIOD_S * 1e6)  # read before Redis is, which errs to the patient side
        with self._redis.pipeline(transaction=False) as pipeline:
            for line in lines:
                pipeline.lindex(line, -1)
            oldest = pipeline.execute() if lines else []
        positions = [None if message is None else broker.position_of(message) for message in oldest]
        return {line: empty if position is None else position for line, position in zip(lines, positions, strict=True)}

    def _recover(self, line: str, mark: int) -> None:
        lost: list[tuple[int, Hint]] = self._predictions.oldest_queued(line, _RECOVER_AT_MOST, before=mark)
        if not lost:
            return
        log.warning("%d hints had left redis unclaimed: published again", len(lost), extra={"line": line})
        failpoints.hit("reconcile.recovering")
        # Oldest at the very head: pages are pushed youngest page first.
        for start in range((len(lost) - 1) // _PAGE * _PAGE, -1, -_PAGE):
            messages = [wire for _, wire in broker.envelopes(line, lost[start : start + _PAGE], at_most=64)]
            self._redis.rpush(line, *messages[::-1])
        self._marks.forget(line)
        model, version, *_ = broker.parse_line(line)
        metrics.recovered_hints((model, version), len(lost))
