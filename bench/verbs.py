"""Every verb of the store that a queue lives by, called as the parts of Headway call them.

For whoever compares two databases: `make bench-growth` by the clock, the tests by the work the database has with them.
"""

import random
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from bench.history import MODEL, PRIORITY, RECEIVER, VERSION
from headway import broker
from headway.clock import new_id, now_us
from headway.errors import ItemCode, ItemError
from headway.states import Status
from headway.testing import new_prediction
from headway.types import Outcome
from headway.webhooks import WebhookStatus
from storage.deliveries import Attempt, Deliveries, Result
from storage.engine import Database
from storage.predictions import Predictions
from storage.returning import Returned
from storage.running import Finished
from storage.workers import Workers

T = TypeVar("T")

#: Rows in a group.
GROUP = 64
_BODY = b'{"image": "' + b"0123456789" * 10 + b'"}'


class Observer(Protocol):
    def __call__(self, verb: str, call: Callable[[], T], /) -> T:
        """Makes the call, and notes what is to be known of it."""


class Verbs:
    """Of one database, with a live worker."""

    def __init__(self, database: Database, began: int, *, counted: int, scanned: int) -> None:
        """`began`: before all that is stored, µs. `counted`, `scanned`: where the backlog and a page of a list stop."""
        self.database = database
        self._began = began
        self._counted = counted
        self._scanned = scanned
        self._predictions = Predictions(database)
        self._workers = Workers(database)
        self._deliveries = Deliveries(database)
        self._workers.register("w1", "cpu", "host", 1)
        self._line = broker.line(MODEL, VERSION, PRIORITY)
        self._low = broker.line(MODEL, VERSION, 9)
        self._bulk = broker.line(MODEL, VERSION, 19)
        self._lines = [*broker.lines(MODEL, VERSION), *(line for v in "123" for line in broker.lines("sentiment", v))]

    def round(self, seen: Observer, old: Sequence[str] = ()) -> None:
        """Calls every verb once. It leaves as many rows queued as it found.

        `old`: ids of stored rows, of which some are read.
        """
        predictions, workers, deliveries = self._predictions, self._workers, self._deliveries
        rows = [new_prediction(line=self._line, size=120, body=_BODY, **_key(n)) for n in range(GROUP)]
        seen("insert 64", lambda: predictions.insert(rows))
        workers.beats()  # SQLite drops what it had cached: that was the round before
        oldest = seen("oldest_queued 64", lambda: predictions.oldest_queued(self._line, GROUP))
        ids = [hint.id for _, hint in oldest]
        seen("read 1", lambda: predictions.read(ids[:1]))
        seen("read 64", lambda: predictions.read(ids))
        seen("read_input", lambda: predictions.read_input(ids[0], "default"))

        key = rows[0].idempotency_key
        assert key
        assert seen("holder", lambda: predictions.holder("default", key, "")) is not None

        claim = new_id()
        taken = seen("claim 64", lambda: predictions.claim(claim, "w1", ids, MODEL, VERSION))
        assert len(taken) == GROUP
        seen("give_back 64", lambda: predictions.give_back(claim, [Returned(id=id_) for id_ in ids], True))
        claim = new_id()
        predictions.claim(claim, "w1", ids, MODEL, VERSION)
        seen("beats", workers.beats)
        seen("claims of a worker", lambda: workers.claims("w1"))
        seen("give_back_dead, none", predictions.give_back_dead)
        seen("progress 64", lambda: predictions.progress([(id_, claim, b'{"fraction":0.5}') for id_ in ids]))
        seen("canceling 64", lambda: predictions.canceling(ids))
        outcomes = [_outcome(n, id_) for n, id_ in enumerate(ids)]
        ended = seen("finish 64", lambda: predictions.finish([Finished(claim=claim, outcomes=outcomes, settled=True)]))
        assert len(ended) == GROUP

        seen("list 20", lambda: predictions.page("default"))
        seen("list 20 failed", lambda: predictions.page("default", status=Status.FAILED))

        others = [new_prediction(line=self._low, priority=9, **_webhook(n)) for n in range(GROUP)]
        predictions.insert(others)
        canceled = seen("cancel_queued 64", lambda: predictions.cancel_queued([row.id for row in others], "default"))
        assert len(canceled) == GROUP
        one = others[1].id
        assert seen("retry 1", lambda: predictions.retry(one, "default"))[0]
        assert seen("cancel 1", lambda: predictions.cancel(one, "default"))[0]
        assert seen("delete 1", lambda: predictions.delete(one, "default"))[0]
        redrive, scan = predictions.redrive, self._scanned
        seen("redrive failed, none", lambda: redrive(Status.FAILED, code="worker_lost", scan=scan))
        seen("redrive, no match", lambda: redrive(Status.EXPIRED, model="nobody", scan=scan))
        seen("cancel_line, none", lambda: predictions.cancel_line(self._line, 0))
        shadow = {"shadow_of": ids[0], "model": MODEL, "version": VERSION, "line": self._bulk, "priority": 19}
        predictions.insert([new_prediction(**shadow) for _ in range(20)])
        seen("shadows 20", lambda: predictions.shadows(MODEL, VERSION))
        predictions.delete_shadows(ids[:1])
        seen("expire, none due", predictions.expire)
        seen("purge, none old", lambda: predictions.purge(self._began))
        seen("forget_dead, none", workers.forget_dead)

        seen("due_receivers", deliveries.due_receivers)
        leased = seen("lease 8", lambda: deliveries.lease({RECEIVER: 8}, 60))
        assert len(leased) == 8
        attempt = Attempt(at=now_us(), seconds=0.1, status_code=200, error=None)
        results = [Result(leased=one, state=WebhookStatus.SUCCEEDED, attempt=attempt) for one in leased]
        seen("record 8", lambda: deliveries.record(results))
        seen("deliveries of one", lambda: deliveries.of(others[0].id, "default"))
        scattered = random.sample(old, GROUP) if old else ids
        seen("read 64, scattered", lambda: predictions.read(scattered))
        seen("backlog", lambda: predictions.backlog(self._lines, at_most=self._counted))
        seen("waiting", lambda: predictions.waiting(dict.fromkeys(self._lines, now_us())))
        seen("depth", lambda: predictions.depth(self._lines, self._counted))
        seen("first positions", lambda: predictions.first_positions(self._lines[0], self._counted))
        seen("list 20, no match", lambda: predictions.page("default", model="nobody", scan=self._scanned))


def _outcome(n: int, id_: str) -> Outcome:
    if n % 3 == 0:
        return Outcome(id=id_, error=ItemError(ItemCode.MODEL_ERROR, "ValueError: not a digit"))
    return Outcome(id=id_, output=b'{"label": 7}', predict_us=900, batch_size=GROUP)


def _key(n: int) -> dict[str, Any]:
    return {"idempotency_key": new_id(), "idempotency_digest": "0" * 64} if n % 8 == 0 else {}


def _webhook(n: int) -> dict[str, Any]:
    return {"webhook": f"{RECEIVER}/hook", "webhook_events": 1} if n % 8 == 0 else {}
