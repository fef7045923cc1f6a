"""Claims and results: what a worker takes is fenced by a fresh claim, and what it writes asks for that claim."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy.exc

from headway.clock import now_us
from headway.errors import ItemCode, ItemError
from headway.notices import Ended
from headway.states import Status
from headway.types import Claimed, Outcome
from storage.engine import reason
from storage.faults import Fault, fault
from storage.rows import claimed_of, ended_of
from storage.statements import parts
from storage.verbs import UUID, Verbs, as_json, valid

# As plain numbers, which are hashed and compared in C.
_CANCELING, _SUCCEEDED, _FAILED, _CANCELED = map(
    int, (Status.CANCELING, Status.SUCCEEDED, Status.FAILED, Status.CANCELED)
)
_STATUSES = {int(status): status for status in Status}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What came of one claim, or of a part of it."""

    claim: str
    outcomes: Sequence[Outcome]
    settled: bool  # nothing of the claim remains: every row of it is here, or was finished or given back before


class Running(Verbs):
    def claim(self, claim: str, worker_id: str, ids: Sequence[str], model: str, version: str) -> list[Claimed]:
        """Takes those of `ids` that are queued for this version and not expired, oldest first.

        `claim` is a fresh UUID, used for one call only. Nothing is taken if the worker is not live. If the answer to
        the COMMIT is lost, the claim is read back by its id; what was taken by a call that raised StorageUnavailable
        shows in `Workers.claims`.
        """
        ids = valid(ids)
        if not ids:
            return []
        parameters = {"claim": claim, "worker_id": worker_id, "ids": self._ids(ids), "model": model, "version": version}
        tries = 0

        def take() -> list[Claimed]:
            nonlocal tries
            tries += 1
            if tries > 1 and (before := self._claimed(claim, parameters["ids"])):
                return before
            if self._database.dialect == "sqlite":
                return self._claim_sqlite(claim, parameters)
            try:
                return self._claim_postgresql(parameters)
            except sqlalchemy.exc.IntegrityError:
                if tries == 1:
                    raise
                # The server had not yet noticed that the first try's connection was gone.
                return self._claimed(claim, parameters["ids"])

        return sorted(self._database.retrying(take), key=lambda row: (row.position, row.id))

    def _claim_sqlite(self, claim: str, parameters: dict[str, str]) -> list[Claimed]:
        with self._database.direct(durable=False) as direct:
            if not direct.run("claim", **parameters):
                return []
            direct.run("record_claim", **parameters)
            rows = direct.rows("claimed", claim=claim, ids=parameters["ids"])
        return [claimed_of(row) for row in rows]

    def _claim_postgresql(self, parameters: dict[str, str]) -> list[Claimed]:
        with self._database.write_once(durable=False) as connection:
            return [claimed_of(row) for row in self._database.run(connection, "claim", **parameters).all()]

    def _claimed(self, claim: str, ids: str) -> list[Claimed]:
        with self._database.read() as connection:
            return [claimed_of(row) for row in self._database.rows(connection, "claimed", claim=claim, ids=ids)]

    def finish(self, finished: Sequence[Finished]) -> dict[str, Ended]:
        """Writes the results of several claims in one durable transaction; id → what the row became.

        Only rows that this call ended are in the answer. An outcome that the database refuses for its data makes that
        row `output_invalid`.
        """
        fenced: dict[tuple[str, str], Outcome] = {}
        for one in finished:
            for outcome in one.outcomes:
                fenced.setdefault((one.claim, outcome.id), outcome)
        results = [(claim, outcome) for (claim, id_), outcome in fenced.items() if UUID.fullmatch(id_)]
        return self._finish(results, [one.claim for one in finished if one.settled])

    def _finish(self, results: Sequence[tuple[str, Outcome]], settled: Sequence[str]) -> dict[str, Ended]:
        if not results and not settled:
            return {}
        write = self._finish_sqlite if self._database.dialect == "sqlite" else self._finish_postgresql
        tries = 0

        def once() -> Iterable[Sequence[Any]]:
            nonlocal tries
            tries += 1
            rows = write(results, settled)
            return [*rows, *self._ended_under(results)] if tries > 1 else rows

        try:
            rows = self._database.retrying(once)
        except Exception as error:
            if fault(error) is not Fault.DATA:
                raise
            return self._finish_apart(results, settled, error)
        outcomes = {(claim, outcome.id): outcome for claim, outcome in results}
        return {
            id_: ended_of(outcomes[claim, id_], _STATUSES[status], claim, revision, attempt, started_at, completed_at)
            for id_, claim, status, revision, attempt, started_at, completed_at in rows
        }

    def _finish_apart(
        self, results: Sequence[tuple[str, Outcome]], settled: Sequence[str], error: Exception
    ) -> dict[str, Ended]:
        """Halves what was refused. The claims are settled with the last half, when all the rest is written."""
        if len(results) > 1:
            middle = len(results) // 2
            return self._finish(results[:middle], []) | self._finish(results[middle:], settled)
        ((claim, outcome),) = results
        message = f"the outcome could not be stored: {reason(error)}".replace("\0", "")
        if outcome.error is not None and outcome.error.message == message:
            raise error  # it is not the outcome that is refused
        refused = Outcome(
            id=outcome.id,
            error=ItemError(ItemCode.OUTPUT_INVALID, message),
            predict_us=outcome.predict_us,
            batch_size=outcome.batch_size,
        )
        return self._finish([(claim, refused)], settled)

    def _finish_sqlite(self, results: Sequence[tuple[str, Outcome]], settled: Sequence[str]) -> Sequence[Sequence[Any]]:
        outcomes = {(claim, outcome.id): outcome for claim, outcome in results}
        with self._database.direct() as direct:
            # The transaction is the only one there is: what the fence lets through now stays as it is.
            passed = direct.rows("finishing", claims=_by_claim(results))
            now = now_us()
            rows = []
            alike: dict[tuple[Any, ...], list[Any]] = defaultdict(list)  # what rows share → their ids and outputs
            for id_, claim, before, revision, attempt, started_at in passed:
                outcome = outcomes[claim, id_]
                status = _became(outcome, before)
                output = outcome.output
                # The driver looks for an adapter for each `bytes` that it binds.
                alike[_shared(outcome, status, claim)] += (id_, None if output is None else bytearray(output))
                rows.append((id_, claim, status, revision + 1, attempt, started_at, now))
            for shared, values in alike.items():
                for part in parts(len(values) // 2):
                    some = values[2 * part.start : 2 * part.stop]
                    direct.run_with_rows("finish", part.stop - part.start, (*some, *shared[:-1], now, shared[-1]))
            if settled:
                direct.run("settle", claims=self._ids(settled))
        return rows

    def _finish_postgresql(
        self, results: Sequence[tuple[str, Outcome]], settled: Sequence[str]
    ) -> Sequence[Sequence[Any]]:
        rows = []
        for claim, outcome in results:
            code, message = _error(outcome)
            rows.append(
                {
                    "id": outcome.id,
                    "claim": claim,
                    "status": outcome.status,
                    "error_code": code,
                    "error_message": message,
                    "predict_us": outcome.predict_us,
                    "batch_size": outcome.batch_size,
                    "output_type": outcome.output_type,
                    "output_bytes": outcome.output_bytes,
                }
            )
        outputs = [outcome.output for _, outcome in results]
        with self._database.write_once() as connection:
            return self._database.run(
                connection, "finish", rows=as_json(rows), outputs=outputs, claims=self._ids(settled)
            ).all()

    def _ended_under(self, results: Sequence[tuple[str, Outcome]]) -> Sequence[Sequence[Any]]:
        """Those of the results that an earlier try, whose answer was lost, has written."""
        with self._database.read() as connection:
            return self._database.rows(connection, "ended_under", rows=_fences(results))


def _by_claim(results: Iterable[tuple[str, Outcome]]) -> str:
    """Claim → ids: SQLite would parse an object of each row twice."""
    by_claim: dict[str, list[str]] = defaultdict(list)
    for claim, outcome in results:
        by_claim[claim].append(outcome.id)
    return as_json(by_claim)


def _fences(results: Iterable[tuple[str, Outcome]]) -> str:
    return as_json([{"id": outcome.id, "claim": claim} for claim, outcome in results])


def _became(outcome: Outcome, before: int) -> int:
    """The status after one: what fails while it is being canceled is canceled."""
    if outcome.error is None and not outcome.canceled:
        return _SUCCEEDED
    return _CANCELED if before == _CANCELING and outcome.error is not None else int(outcome.status)


def _shared(outcome: Outcome, status: int, claim: str) -> tuple[Any, ...]:
    """What SQLite's `finish` asks for beside the rows themselves and the time."""
    error = (None, None) if outcome.error is None or status == _CANCELED else _error(outcome)
    measured = (outcome.predict_us, outcome.batch_size)
    return status, status == _FAILED, *error, *measured, outcome.output_type, outcome.output_bytes, claim


def _error(outcome: Outcome) -> tuple[str | None, str | None]:
    return (None, None) if outcome.error is None else (outcome.error.code, outcome.error.message)
