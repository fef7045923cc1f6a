"""Group commit: submissions that arrive while one group commits form the next one, without any artificial delay.

One INSERT, one fsync and one Redis pipeline serve a whole group. A submission is accepted when its row is committed;
the hint that follows is published at best effort and waited for by nobody.
"""

import asyncio
import logging
import math
import time
from collections import Counter, deque
from collections.abc import Sequence
from typing import NamedTuple

from api import metrics
from api.problems import Problem
from api.publisher import Publisher
from api.threads import Threads
from headway import broker, failpoints
from headway.errors import StorageUnavailable
from headway.types import Hint, NewPrediction
from storage.predictions import Predictions
from storage.submitting import Held, Refused

log = logging.getLogger(__name__)

#: A group is closed at whichever comes first.
MOST_ROWS = 500
MOST_BYTES = 4 * 1024 * 1024

#: Submissions that may wait for their group; whoever comes later would wait longer than it takes to come again.
MOST_WAITING = 2 * MOST_ROWS

#: How long a submission is followed by others, probably, and the longest pause that is made for them.
_LATELY_S = 0.5
_LONGEST_PAUSE_S = 0.1


class _Submission(NamedTuple):
    row: NewPrediction
    at_most: int  # predictions an envelope of its line may hold
    position: asyncio.Future[int | Held]


class Submitter:
    """`submit` from any endpoint; `run` is the one task that commits."""

    def __init__(self, predictions: Predictions, publisher: Publisher) -> None:
        self._predictions = predictions
        self._publisher = publisher
        self._thread = Threads("commit", 1)
        self._pending: deque[_Submission] = deque()
        self._coming: Counter[str] = Counter()  # pending submissions of each line
        self._wake = asyncio.Event()
        self._asked_at = -math.inf  # monotonic, when something was submitted last
        self.uncommitted: Counter[str] = Counter()  # submissions of each model on their way to SQL
        self.accepted: Counter[str] = Counter()  # of each model, since this process began

    def check_room(self) -> None:
        """Raises Problem unavailable where more are submitted than can be committed; before a body is read."""
        if len(self._pending) >= MOST_WAITING:
            metrics.refused("overloaded")
            raise Problem.unavailable("More is submitted than can be stored now.")

    async def submit(self, row: NewPrediction, at_most: int) -> int | Held:
        """The row's position once it is committed, or who has its idempotency key.

        Raises StorageUnavailable, or Problem where SQL refuses its data.
        """
        return await self._add(row, at_most)

    async def submit_all(self, rows: Sequence[NewPrediction], at_most: int) -> None:
        """Like `submit`, for rows without keys, in one go; they need not end up in one group."""
        results = await asyncio.gather(*[self._add(row, at_most) for row in rows], return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    def _add(self, row: NewPrediction, at_most: int) -> asyncio.Future[int | Held]:
        """The caller's own future: canceled with its caller, and then skipped by the committer, which asks `done()`.

        The row is inserted all the same.
        """
        future: asyncio.Future[int | Held] = asyncio.get_running_loop().create_future()
        self._asked_at = time.monotonic()
        self._pending.append(_Submission(row, at_most, future))
        self._coming[row.line] += 1
        self.uncommitted[row.model] += 1
        self._wake.set()
        return future

    async def make_way(self, began: float) -> None:
        """For what is not waited for by anybody, after a piece of work that was begun then (monotonic): while others
        submit, a pause as long as the work."""
        now = time.monotonic()
        if now - self._asked_at < _LATELY_S:
            await asyncio.sleep(min(now - began, _LONGEST_PAUSE_S))

    async def run(self) -> None:
        """Until canceled. Whatever a group raises is that group's alone."""
        while True:
            await self._wake.wait()
            group = self._take()
            try:
                await self._commit(group)
            except StorageUnavailable as error:
                # Those behind it are told as well, rather than each group in turn waiting out its patience.
                _fail([*group, *self._drain()], error)
            except asyncio.CancelledError:
                _fail(group, StorageUnavailable("the API is stopping"))
                raise
            except Exception as error:
                log.exception("a group of submissions failed")
                _fail(group, error)
            finally:
                self.uncommitted.subtract(submission.row.model for submission in group)

    def _take(self) -> list[_Submission]:
        """The next group, in order of arrival; a single row may be larger than MOST_BYTES."""
        group: list[_Submission] = []
        size = 0
        while self._pending and len(group) < MOST_ROWS:
            size += len(self._pending[0].row.body)
            if group and size > MOST_BYTES:
                break
            submission = self._pending.popleft()
            self._coming[submission.row.line] -= 1
            group.append(submission)
        if not self._pending:
            self._coming.clear()
            self._wake.clear()
        return group

    async def _commit(self, group: Sequence[_Submission]) -> None:
        rows = [submission.row for submission in group]
        started = time.perf_counter()
        positions = await self._thread.run(lambda: self._insert(rows))
        metrics.COMMIT_SECONDS.observe(time.perf_counter() - started)
        metrics.GROUP_SIZE.observe(len(group))
        accepted: dict[str, list[tuple[int, Hint]]] = {}
        at_most: dict[str, int] = {}
        for (row, most, future), position in zip(group, positions, strict=True):
            if isinstance(position, Refused):
                if not future.done():
                    future.set_exception(Problem.invalid(position.message, pointer=""))
                continue
            if not future.done():
                future.set_result(position)
            if isinstance(position, Held):
                continue
            self.accepted[row.model] += 1
            hint = Hint(id=row.id, size=row.size, shape=row.shape, position=position)
            accepted.setdefault(row.line, []).append((row.priority, hint))
            at_most[row.line] = most
        for line, hints in accepted.items():
            metrics.ACCEPTED.inc(len(hints))
            made = broker.envelopes(line, hints, at_most=at_most[line], coming=self._coming[line])
            self._publisher.hint(line, made, len(hints))

    def _insert(self, rows: Sequence[NewPrediction]) -> list[int | Refused | Held]:
        failpoints.hit("submit.begin", failpoints.storage_lost)
        positions = self._predictions.insert(rows)
        failpoints.hit("submit.committed", failpoints.storage_lost)
        return positions

    def _drain(self) -> list[_Submission]:
        pending = list(self._pending)
        self._pending.clear()
        self.uncommitted.subtract(submission.row.model for submission in pending)
        self._coming.clear()
        self._wake.clear()
        return pending

    def close(self) -> None:
        """Fails what is still pending."""
        _fail(self._drain(), StorageUnavailable("the API is stopping"))
        self._thread.close()


def _fail(group: Sequence[_Submission], error: Exception) -> None:
    for _, _, future in group:
        if not future.done():
            # One exception each: a shared one would collect the traceback of every task that raises it.
            future.set_exception(StorageUnavailable(str(error)) if isinstance(error, StorageUnavailable) else error)
            future.exception()  # whoever asked may be gone; then nobody else retrieves it
