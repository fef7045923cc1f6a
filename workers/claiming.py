"""From hints to rows: a micro-batch is claimed in SQL before the device hears of it."""

import logging
import time
from collections.abc import Callable, Sequence

from batching.policy import Waiting
from headway import failpoints
from headway.clock import new_id
from headway.errors import StorageUnavailable
from headway.notices import Ended
from headway.types import Claimed
from storage.predictions import Predictions
from workers import metrics
from workers.claims import Claims
from workers.watchdog import Life, Sign
from workers.window import Window

log = logging.getLogger(__name__)


class Claiming:
    """Of one runner, for one thread."""

    def __init__(
        self,
        *,
        worker_id: str,
        window: Window,
        predictions: Predictions,
        claims: Claims,
        stopping: Callable[[], bool],
        on_ended: Callable[[dict[str, Ended], Sequence[str]], None],
    ) -> None:
        """`stopping()`: SQL is not waited for any more. `on_ended`: told what could not be had."""
        self._worker_id = worker_id
        self._window = window
        self._predictions = predictions
        self._claims = claims
        self._stopping = stopping
        self._on_ended = on_ended
        self._labels = (window.model, window.version)
        self._life = Life(f"the feed of {window.model}@{window.version}, which claims,")
        self._life.rests()

    def sign(self) -> list[Sign]:
        return self._life.sign()

    def claim(self, items: Sequence[Waiting]) -> tuple[list[Claimed], dict[str, str]]:
        """The rows that are ours now, filled up from the window where some were not to be had, and id → claim."""
        with self._life.at_work():
            return self._filled_up(items)

    def _filled_up(self, items: Sequence[Waiting]) -> tuple[list[Claimed], dict[str, str]]:
        rows, claims = self._some(items)
        missing = len(items) - len(rows)
        if missing:
            metrics.dead_hints(self._labels, missing)
            if mates := self._window.top_up([item for item in items if item.id in claims], missing):
                more, their_claims = self._some(mates)
                rows, claims = rows + more, claims | their_claims
        return rows, claims

    def _some(self, items: Sequence[Waiting]) -> tuple[list[Claimed], dict[str, str]]:
        ids = [item.id for item in items]
        pause = 0.05
        while True:
            claim = new_id()
            self._life.goes_on()  # it may be the tenth try
            self._claims.open(claim, ids)
            try:
                failpoints.hit("claim.begin", failpoints.storage_lost)
                rows = self._predictions.claim(claim, self._worker_id, ids, *self._labels)
                failpoints.hit("claim.committed", failpoints.storage_lost)
                break
            except StorageUnavailable as error:
                self._claims.drop(claim)
                if self._stopping():
                    rows = []
                    break
                log.warning("sql is away, a claim waits: %s", error)
                time.sleep(pause)
                pause = min(pause * 2, 2.0)
        if claim in self._claims:
            self._claims.hold(claim, [row.id for row in rows])
        got = {row.id: claim for row in rows}
        not_ours = [id_ for id_ in ids if id_ not in got]
        self._window.forget(not_ours)
        self._on_ended({}, not_ours)
        return rows, got
