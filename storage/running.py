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
            if tries > 1 and (before := self._claimed(claim)):
                return before
            if self._database.dialect == "sqlite":
                return self._claim_sqlite(claim, parameters)
            try:
                return self._claim_postgresql(parameters)
            except sqlalchemy.exc.IntegrityError:
                if tries == 1:
                    raise
                return self._claimed(claim)  # the server had not yet noticed that the first try's connection was gone

        return sorted(self._database.retrying(take), key=lambda row: (row.position, row.id))

    def _claim_sqlite(self, claim: str, parameters: dict[str, str]) -> list[Claimed]:
        with self._database.direct(durable=False) as direct:
            if not direct.run("claim", **parameters):
                return []
            direct.run("record_claim", **parameters)
            return [claimed_of(row) for row in direct.rows("claimed", claim=claim)]

    def _claim_postgresql(self, parameters: dict[str, str]) -> list[Claimed]:
        with self._database.write_once(durable=False) as connection:
            return [claimed_of(row) for row in self._database.run(connection, "claim", **parameters).all()]

    def _claimed(self, claim: str) -> list[Claimed]:
        with self._database.read() as connection:
            return [claimed_of(row) for row in self._database.rows(connection, "claimed", claim=claim)]

    def finish(self, finished: Sequence[Finished]) -> dict[str, Ended]:
        """Writes the results of several claims in one durable transaction; id → what the row became.

        Only rows that this call ended are in the answer. An outcome that the database refuses for its data makes that
        row `output_invalid`.
        """
        fenced = {(one.claim, outcome.id): outcome for one in reversed(finished) for outcome in reversed(one.outcomes)}
        results = [(claim, outcome) for (claim, _), outcome in fenced.items() if UUID.fullmatch(outcome.id)]
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
            id_: ended_of(outcomes[claim, id_], Status(status), claim, revision, attempt, started_at, completed_at)
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
        with self._database.direct() as direct:
            outcomes = {(claim, outcome.id): outcome for claim, outcome in results}
            # The transaction is the only one there is: what the fence lets through now stays as it is.
            passed = direct.rows("finishing", rows=_fences(results))
            now = now_us()
            became = {id_: _became(outcomes[claim, id_], status) for id_, claim, status, *_ in passed}
            alike: dict[tuple[Any, ...], list[Any]] = defaultdict(list)  # what rows share → their ids and outputs
            for id_, claim, *_ in passed:
                outcome = outcomes[claim, id_]
                alike[_shared(outcome, became[id_], claim, now)] += (id_, outcome.output)
            for shared, rows in alike.items():
                for part in parts(len(rows) // 2):
                    values = rows[2 * part.start : 2 * part.stop]
                    direct.run_with_rows("finish", part.stop - part.start, (*values, *shared))
            if settled:
                direct.run("settle", claims=self._ids(settled))
        return [
            (id_, claim, became[id_], revision + 1, attempt, started_at, now)
            for id_, claim, _, revision, attempt, started_at in passed
        ]

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


def _fences(results: Iterable[tuple[str, Outcome]]) -> str:
    return as_json([{"id": outcome.id, "claim": claim} for claim, outcome in results])


def _became(outcome: Outcome, status: int) -> Status:
    """What a row of this status becomes: what fails while it is being canceled is canceled."""
    return Status.CANCELED if status == Status.CANCELING and outcome.error is not None else outcome.status


def _shared(outcome: Outcome, status: Status, claim: str, now: int) -> tuple[Any, ...]:
    """What SQLite's `finish` asks for beside the rows themselves."""
    error = (None, None) if status is Status.CANCELED else _error(outcome)
    measured = (outcome.predict_us, outcome.batch_size)
    apart = (outcome.output_type, outcome.output_bytes)
    return status, status is Status.FAILED, *error, *measured, *apart, now, claim


def _error(outcome: Outcome) -> tuple[str | None, str | None]:
    return (None, None) if outcome.error is None else (outcome.error.code, outcome.error.message)
