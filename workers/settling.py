"""What becomes of claimed rows: results go to SQL, and what is not finished goes back where it was.

A row is settled once. `Claims` knows what a claim has left, and who settles the last of it says so in SQL.
"""

import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from headway import broker
from headway.errors import ItemCode
from headway.notices import Ended
from headway.types import Claimed, Outcome
from storage.predictions import Predictions
from storage.returning import Returned
from storage.running import Finished
from workers import metrics
from workers.call import by_claim
from workers.claims import Claims
from workers.finisher import Finisher, Settled, persist
from workers.outputs import Outputs, lies_apart
from workers.progress import Progress
from workers.publisher import Publisher
from workers.tally import Tally
from workers.window import Window
from workers.yielding import Yielding


class Settling:
    """Of one runner. Thread-safe."""

    def __init__(
        self,
        *,
        window: Window,
        predictions: Predictions,
        claims: Claims,
        finisher: Finisher,
        publisher: Publisher,
        progress: Progress,
        outputs: Outputs,
        yielding: Yielding,
        tally: Tally,
        on_ended: Callable[[dict[str, Ended], Sequence[str]], None],
    ) -> None:
        """`on_ended(ended, ids)`: these ids have left this worker, and those in `ended` became terminal."""
        self._window = window
        self._predictions = predictions
        self._claims = claims
        self._finisher = finisher
        self._publisher = publisher
        self._progress = progress
        self._outputs = outputs
        self._yielding = yielding
        self._tally = tally
        self._on_ended = on_ended
        self._labels = (window.model, window.version)
        self._in_order = threading.Lock()

    def settle(
        self,
        claims: Mapping[str, str],
        rows: Sequence[Claimed],
        outcomes: Sequence[Outcome],
        idle: bool,
        taken_at: float | None = None,
    ) -> None:
        """Off to SQL, and what is too large for it to the blob store before."""
        apart = [one for one in outcomes if lies_apart(one)]
        if apart:
            self._outputs.put(apart, claims, lambda written: self._finish(claims, rows, written, idle=False))
            outcomes = [one for one in outcomes if not lies_apart(one)]
        if outcomes:
            self._finish(claims, rows, outcomes, idle, taken_at)

    def _finish(
        self,
        claims: Mapping[str, str],
        rows: Sequence[Claimed],
        outcomes: Sequence[Outcome],
        idle: bool,
        taken_at: float | None = None,
    ) -> None:
        """While the device is idle this thread may as well write itself: one hand-over less."""
        parted: dict[str, list[Outcome]] = defaultdict(list)
        for outcome in outcomes:
            parted[claims[outcome.id]].append(outcome)
        ids = [one.id for one in outcomes]
        self._progress.forget(ids)
        # Thousands of a batch end in a second, and who follows it reads the batch.
        unheard = {row.id for row in rows if broker.is_bulk(row.line)}
        bulk = unheard.issuperset(ids)

        def done(ended: dict[str, Ended]) -> None:
            self._outputs.remove_lost(outcomes, claims, ended)
            self._window.forget(ids)
            metrics.finished(self._labels, rows, ended)
            self._tally.finished(rows, ended)
            self._on_ended(ended, ids)
            if bulk and taken_at is not None:
                self._yielding.ended(taken_at, max(one.predict_us for one in outcomes) / 1e6)
            if bulk:
                self._window.wake()  # the next may have waited for this one

        with self._in_order:  # whoever settles the last of a claim must also come last to the finisher
            parts = [
                Finished(claim=claim, outcomes=part, settled=self._claims.settle(claim, [one.id for one in part]))
                for claim, part in parted.items()
            ]
            self._finisher.put(Settled(parts, done, bulk, unheard), at_once=idle)

    def hand_back(self, rows: Sequence[Claimed], claims: Mapping[str, str]) -> None:
        """Back to their line, blamed for nothing."""
        metrics.lost_attempts(self._labels, "handed_back", len(rows))
        self.give_back(rows, claims, losses=None, charge=False, code=ItemCode.WORKER_LOST, message="")

    def give_back(
        self,
        rows: Sequence[Claimed],
        claims: Mapping[str, str],
        *,
        losses: int | None,
        charge: bool,
        code: ItemCode,
        message: str,
    ) -> None:
        """`claims`: prediction id → claim. The rest as in `storage.returning.Returned`."""
        for claim, ids in by_claim((row.id for row in rows), claims).items():
            returned = [Returned(id=id_, losses=losses, charge=charge, code=code, message=message) for id_ in ids]
            settled = self._claims.settle(claim, ids)
            given = persist(lambda c=claim, r=returned, s=settled: self._predictions.give_back(c, r, s))  # type: ignore[misc]
            self._window.forget(ids)
            self._publisher.ended(given.ended)
            self._publisher.requeue(given.queued)
            metrics.became_terminal(self._labels, given.ended)
            self._on_ended(given.ended, ids)
