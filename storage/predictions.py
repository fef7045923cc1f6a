"""The life of predictions in SQL. Every change of a status is a verb of this file.

The fence: every claim writes a fresh id into the rows it takes, and every later change asks for that id and for a
status that has not ended. Whoever comes late, however late, changes nothing.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import msgspec
import sqlalchemy.exc

from headway.clock import now_us
from headway.errors import ItemCode, ItemError, StorageUnavailable
from headway.notices import Ended
from headway.states import Status
from headway.types import Claimed, Hint, Input, NewPrediction, Outcome, Prediction
from storage.engine import Database, reason
from storage.faults import Fault, fault
from storage.rows import claimed_of, ended_of, item_error, never_begun, prediction_of
from storage.statements import parts, with_rows

T = TypeVar("T")

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
#: Queued rows of one line that are counted: 30 ms, where a million would be a third of a second and more.
COUNTED_AT_MOST = 100_000
#: Rows that a page of a list looks at.
SCANNED_AT_MOST = 10_000

_FOREVER = (1 << 63) - 1
_FIRST_ID = "00000000-0000-0000-0000-000000000000"
_LAST_ID = "ffffffff-ffff-ffff-ffff-ffffffffffff"

_uuids = msgspec.json.Decoder(list[str])
_integers = msgspec.json.Decoder(list[int])


@dataclass(frozen=True, slots=True)
class Refused:
    """A row that the database refuses for its data."""

    message: str


@dataclass(frozen=True, slots=True)
class Held:
    """A submission whose idempotency key another row has."""

    id: str  # that row's
    same: bool  # it was the same request


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Rows of a list, newest first."""

    rows: list[Prediction]
    after: str | None  # where the next page begins; None: there is none


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What came of one claim, or of a part of it."""

    claim: str
    outcomes: Sequence[Outcome]
    settled: bool  # nothing of the claim remains: every row of it is here, or was finished or given back before


@dataclass(frozen=True, slots=True, kw_only=True)
class Returned:
    """A row that a worker lets go of."""

    id: str
    losses: int | None = None  # raise `losses` to at least this
    charge: bool = False  # blame it: one more toward max_attempts
    code: ItemCode = ItemCode.WORKER_LOST  # what it fails with when that was the last
    message: str = "the worker was lost each time it ran this alone"


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenBack:
    queued: list[tuple[str, int, Hint]] = field(default_factory=list)  # (line, priority, hint): to be published again
    ended: dict[str, Ended] = field(default_factory=dict)  # canceled, or failed because its attempts are used up
    lines: dict[str, str] = field(default_factory=dict)  # of those that ended: id → line

    def __bool__(self) -> bool:
        return bool(self.queued or self.ended)


class Purged(NamedTuple):
    """One page of a round."""

    last: str | None  # the id it ended with; None when there is nothing older left to look at
    gone: int  # how many went
    blobs: list[str]  # of those, the ones that had something in the blob store


class Redriven(NamedTuple):
    """One page of a bulk retry."""

    queued: list[tuple[str, int, Hint]]  # (line, priority, hint): to be published
    last: tuple[str, str] | None  # (tenant, id) that the next page begins after; None: there is none


@dataclass(frozen=True, slots=True)
class Backlog:
    depth: int  # queued rows, as far as they were counted
    oldest: int | None  # position of the first


class Predictions:
    """Every verb raises StorageUnavailable when SQL is away. An id that is no UUID names no row."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # Submitting

    def insert(self, rows: Sequence[NewPrediction], *, durable: bool = True) -> list[int | Refused | Held]:
        """One transaction for the group: the position of each row, in the order given, rising.

        If the database refuses the group for its data, it is split until the guilty row stands alone. Rows that are
        there already keep their position, so a group may be sent again. Of several with one idempotency key, within
        the group or ever before, the first is a row and the others are told which.
        """
        if not rows:
            return []
        insert = self._insert_sqlite if self._database.dialect == "sqlite" else self._insert_postgresql
        try:
            return list(self._database.retrying(lambda: insert(rows, durable)))
        except Exception as error:
            if fault(error) is not Fault.DATA:
                raise
            if len(rows) == 1:
                return [Refused(reason(error))]
        middle = len(rows) // 2
        return self.insert(rows[:middle], durable=durable) + self.insert(rows[middle:], durable=durable)

    def _insert_sqlite(self, rows: Sequence[NewPrediction], durable: bool) -> Sequence[int | Held]:
        with self._database.write(durable=durable) as connection:
            now = now_us()
            inserted = 0
            for part in parts(len(rows)):
                values: list[Any] = []
                for n, row in enumerate(rows[part], start=now + part.start):
                    values += (row.id, row.tenant_id, row.model, row.version, row.alias, row.line, n, n, row.priority)
                    expires_at = None if row.queue_timeout_us is None else n + row.queue_timeout_us
                    values += (row.size, row.shape, row.max_attempts, _json(row.metadata), expires_at)
                    values += (row.queue_timeout_us, row.execution_timeout_us, row.webhook, row.webhook_events)
                    values += (row.idempotency_key, row.idempotency_digest, row.traceparent, row.shadow_of)
                bodies = [value for row in rows[part] for value in (row.id, row.body, row.content_type, row.blob_bytes)]
                count = part.stop - part.start
                result = connection.exec_driver_sql(with_rows("insert_predictions", count), tuple(values))
                connection.exec_driver_sql(with_rows("insert_inputs", count), tuple(bodies))
                inserted += result.rowcount
            if inserted == len(rows):
                return list(range(now, now + inserted))
            return self._existing(connection, rows)

    def _insert_postgresql(self, rows: Sequence[NewPrediction], durable: bool) -> Sequence[int | Held]:
        fields = [
            {
                "id": row.id,
                "tenant_id": row.tenant_id,
                "model": row.model,
                "version": row.version,
                "alias": row.alias,
                "line": row.line,
                "priority": row.priority,
                "size": row.size,
                "shape": row.shape,
                "max_attempts": row.max_attempts,
                "metadata": _json(row.metadata),
                "queue_timeout_us": row.queue_timeout_us,
                "execution_timeout_us": row.execution_timeout_us,
                "webhook": row.webhook,
                "webhook_events": row.webhook_events,
                "idempotency_key": row.idempotency_key,
                "idempotency_digest": row.idempotency_digest,
                "traceparent": row.traceparent,
                "content_type": row.content_type,
                "blob_bytes": row.blob_bytes,
                "shadow_of": row.shadow_of,
            }
            for row in rows
        ]
        # No BEGIN: one round trip where nothing was in the way, and what was there is seen by the next statement.
        with self._database.write_once(durable=durable) as connection:
            bodies = [row.body for row in rows]
            found = self._database.run(connection, "insert_predictions", rows=_json(fields), bodies=bodies).all()
            if len(found) < len(rows):
                return self._existing(connection, rows)
        positions = {row[0]: row[1] for row in found}
        return [positions[row.id] for row in rows]

    def _existing(self, connection: sqlalchemy.Connection, rows: Sequence[NewPrediction]) -> list[int | Held]:
        """Of a group that did not go in as a whole: where each row is, or who has its key."""
        ids = self._ids([row.id for row in rows])
        found: dict[str, int | Held] = {row[0]: row[1] for row in self._database.run(connection, "positions", ids=ids)}
        keyed = [
            {"id": row.id, "tenant_id": row.tenant_id, "key": row.idempotency_key, "digest": row.idempotency_digest}
            for row in rows
            if row.id not in found
        ]
        for ours, holder, same in self._database.run(connection, "holders", rows=_json(keyed)):
            found[ours] = Held(holder, bool(same))
        self._database.run(connection, "forget_inputs", ids=ids)
        missing = [row.id for row in rows if row.id not in found]
        if missing:  # who had the key was purged between two statements
            raise StorageUnavailable("an idempotency key changed hands; send it again")
        return [found[row.id] for row in rows]

    def holder(self, tenant_id: str, key: str, digest: str) -> Held | None:
        """The row that has an idempotency key, if any."""
        wanted = _json([{"id": _FIRST_ID, "tenant_id": tenant_id, "key": key, "digest": digest}])
        rows = self._read(lambda c: self._database.run(c, "holders", rows=wanted).all())
        return next((Held(id_, bool(same)) for _, id_, same in rows), None)

    # Running

    def claim(self, claim: str, worker_id: str, ids: Sequence[str], model: str, version: str) -> list[Claimed]:
        """Takes those of `ids` that are queued for this version and not expired, oldest first.

        `claim` is a fresh UUID, used for one call only. Nothing is taken if the worker is not live. If the answer to
        the COMMIT is lost, the claim is read back by its id; what was taken by a call that raised StorageUnavailable
        shows in `Workers.claims`.
        """
        ids = _valid(ids)
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
        run = self._database.run
        with self._database.write(durable=False) as connection:
            if not run(connection, "claim", **parameters).rowcount:
                return []
            run(connection, "record_claim", **parameters)
            return [claimed_of(row) for row in self._database.rows(connection, "claimed", claim=claim)]

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
        results = [(claim, outcome) for (claim, _), outcome in fenced.items() if _UUID.fullmatch(outcome.id)]
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
        with self._database.write() as connection:
            outcomes = {(claim, outcome.id): outcome for claim, outcome in results}
            # The transaction is the only one there is: what the fence lets through now stays as it is.
            passed = self._database.rows(connection, "finishing", rows=_fences(results))
            now = now_us()
            became = {id_: _became(outcomes[claim, id_], status) for id_, claim, status, *_ in passed}
            for part in parts(len(passed)):
                values: list[Any] = []
                for id_, claim, *_ in passed[part]:
                    outcome = outcomes[claim, id_]
                    error = (None, None) if became[id_] is Status.CANCELED else _error(outcome)
                    values += (id_, claim, became[id_], *error, outcome.predict_us, outcome.batch_size)
                    values += (now, *_output(outcome))
                connection.exec_driver_sql(with_rows("finish", part.stop - part.start), tuple(values))
            if settled:
                self._database.run(connection, "settle", claims=self._ids(settled))
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
                connection, "finish", rows=_json(rows), outputs=outputs, claims=self._ids(settled)
            ).all()

    def _ended_under(self, results: Sequence[tuple[str, Outcome]]) -> Sequence[Sequence[Any]]:
        """Those of the results that an earlier try, whose answer was lost, has written."""
        with self._database.read() as connection:
            return self._database.rows(connection, "ended_under", rows=_fences(results))

    # Letting go

    def give_back(self, claim: str, returned: Sequence[Returned], settled: bool) -> GivenBack:
        """Rows of a claim that will not be finished under it: queued again at their old position.

        Those being canceled are canceled; those whose blame reaches `max_attempts` fail with their `code`. The claim is
        forgotten if it is settled and really nothing of it remains.
        """
        rows = [_return_row(claim, row) for row in returned if _UUID.fullmatch(row.id)]
        return self._give_back(rows, [claim] if settled else [])

    def give_back_dead(self, limit: int = 500) -> GivenBack:
        """What is claimed by workers that are not live, about `limit` rows a call; call it until nothing is returned.

        Each row loses once more in company; one that ran alone is charged.
        """
        while claims := self._dead_claims(limit):
            rows = [
                _return_row(claim, Returned(id=id_, charge=len(ids) == 1), lost=1)
                for claim, ids in claims.items()
                for id_ in ids
            ]
            given_back = self._give_back(rows, list(claims))
            if given_back or self._dead_claims(limit).keys() & claims.keys():
                return given_back  # what is left of these claims is locked: another pass will find it
        return GivenBack()

    def _dead_claims(self, limit: int) -> dict[str, list[str]]:
        def read() -> dict[str, list[str]]:
            taken: dict[str, list[str]] = {}
            with self._database.read() as connection:
                rows = self._database.run(connection, "dead_claims", limit=limit).all()
            count = 0
            for claim, ids in rows:
                if count >= limit:
                    break
                taken[claim] = _uuids.decode(ids)
                count += len(taken[claim])
            return taken

        return self._database.retrying(read)

    def _give_back(self, rows: Sequence[dict[str, Any]], settled: Sequence[str]) -> GivenBack:
        def once() -> Sequence[Sequence[Any]]:
            with self._database.write() as connection:
                changed = self._database.run(connection, "give_back", rows=_json(rows)).all()
                if settled:
                    self._database.run(connection, "settle_checked", claims=self._ids(settled))
                return changed

        given_back = GivenBack()
        for row in self._database.retrying(once) if rows or settled else ():
            id_, line, priority, size, shape, position, status, revision, claim, attempt, started, completed, *error = (
                row
            )
            if status == Status.QUEUED:
                hint = Hint(id=id_, size=size, shape=shape, position=position)
                given_back.queued.append((line, priority, hint))
            else:
                given_back.lines[id_] = line
                given_back.ended[id_] = Ended(
                    status=Status(status),
                    revision=revision,
                    claim=claim,
                    attempt=attempt,
                    started_at=started,
                    completed_at=completed,
                    predict_us=None,
                    batch_size=None,
                    output=None,
                    output_omitted=False,
                    error=item_error(*error),
                )
        return given_back

    def cancel(self, id_: str, tenant_id: str) -> tuple[bool, Prediction | None]:
        """(whether this call changed it, the row): canceled where it was queued, canceling where it is in progress."""
        return self._change("cancel", id_, tenant_id)

    def retry(self, id_: str, tenant_id: str) -> tuple[bool, Prediction | None]:
        """(whether this call changed it, the row): queued again, last in its line, if it had ended without success."""
        return self._change("retry", id_, tenant_id)

    def delete(self, id_: str, tenant_id: str) -> tuple[bool, Prediction | None]:
        """(whether this call changed it, the row): what it was about is gone, if it had ended, and its shadows too."""
        then = ("delete_shadows", "delete_input", "delete_shadow_inputs", "delete_told")
        return self._change("delete_prediction", id_, tenant_id, *then)

    def delete_shadows(self, ids: Sequence[str]) -> None:
        """Those of predictions that are gone."""

        def once(id_: str) -> None:
            with self._database.write() as connection:
                for statement in ("delete_shadows", "delete_shadow_inputs"):
                    self._database.run(connection, statement, id=id_)

        for id_ in _valid(ids):
            self._database.retrying(lambda id_=id_: once(id_))  # type: ignore[misc]

    def redrive(
        self,
        status: Status,
        *,
        tenant_id: str | None = None,
        model: str | None = None,
        version: str | None = None,
        code: str | None = None,
        since: int | None = None,
        until: int | None = None,
        after: tuple[str, str] | None = None,
        limit: int = 500,
        scan: int = SCANNED_AT_MOST,
    ) -> Redriven:
        """An explicit retry of all that ended with this status, of all tenants if none is named, page by page.

        `since` and `until` are when they ended, microseconds. Batches' items, shadows and what was deleted are passed
        over. A page looks at `scan` rows at most, so there may be more though nothing was retried.
        """
        from_tenant, from_id = after or (tenant_id or "", _FIRST_ID)
        place = {"from_tenant": from_tenant, "after": from_id}
        wanted = {
            "status": status,
            "tenant": tenant_id,
            "model": model,
            "version": version,
            "code": code,
            "since": since or 0,
            "until": _FOREVER if until is None else until,
        }
        failed = status is Status.FAILED
        page, scanned = ("redrive_failed", "redrive_scanned_failed") if failed else ("redrive_page", "redrive_scanned")

        def look(connection: sqlalchemy.Connection) -> tuple[list[str], tuple[str, str] | None]:
            run = self._database.run
            ids = [row[0] for row in run(connection, page, **place, **wanted, scan=scan, limit=limit)]
            if len(ids) == limit:
                return ids, (run(connection, "tenant_of", id=ids[-1]).scalar() or from_tenant, ids[-1])
            row = run(connection, scanned, **place, skip=scan - 1).one_or_none()
            return ids, None if row is None or tenant_id not in (None, row[0]) else (row[0], row[1])

        def once() -> Sequence[Sequence[Any]]:
            with self._database.write() as connection:
                return self._database.run(connection, "redrive", ids=self._ids(ids), status=status).all()

        ids, last = self._read(look)
        rows = sorted(self._database.retrying(once), key=lambda row: str(row[0])) if ids else []
        hints = [(line, priority, Hint(id=id_, size=size, shape=shape, position=position))
                 for id_, line, priority, size, shape, position in rows]  # fmt: skip
        return Redriven(hints, last)

    def tenant_of(self, id_: str) -> str | None:
        """Whose it is; None where there is no such row."""
        if not _UUID.fullmatch(id_):
            return None
        tenant: str | None = self._read(lambda c: self._database.run(c, "tenant_of", id=id_).scalar())
        return tenant

    def _change(self, name: str, id_: str, tenant_id: str, *then: str) -> tuple[bool, Prediction | None]:
        """A verb of one row, durable; None where there is no such row, or it is another tenant's."""
        if not _UUID.fullmatch(id_):
            return False, None
        changed = False

        def once() -> Prediction | None:
            nonlocal changed
            with self._database.write() as connection:
                # What a first try has done, whose answer was lost, was done by this call.
                changed |= self._database.run(connection, name, id=id_, tenant_id=tenant_id).rowcount == 1
                if changed:
                    for more in then:
                        self._database.run(connection, more, id=id_)
                return next(iter(self._rows(connection, [id_])), None)

        row = self._database.retrying(once)
        return changed, row if row is not None and row.tenant_id == tenant_id else None

    def canceling(self, ids: Sequence[str]) -> dict[str, str]:
        """Of these, the ones that a worker should let go of: id → the claim under which it runs."""
        ids = _valid(ids)
        rows = self._read(lambda c: self._database.run(c, "canceling", ids=self._ids(ids)).all()) if ids else ()
        return {row[0]: row[1] for row in rows}

    def progress(self, rows: Iterable[tuple[str, str, bytes]]) -> None:
        """(id, claim, JSON) of what models said last; nothing is lost if it is lost."""
        said = [{"id": id_, "claim": claim, "progress": json.decode()} for id_, claim, json in rows]

        def once() -> None:
            with self._database.write_once(durable=False) as connection:
                self._database.run(connection, "progress", rows=_json(said))

        if said:
            self._database.retrying(once)

    def cancel_queued(self, ids: Sequence[str], tenant_id: str) -> dict[str, Ended]:
        """Those of this tenant that are still queued become canceled; the others stay as they are."""
        ids = _valid(ids)
        if not ids:
            return {}
        return self._end_queued(Status.CANCELED, "cancel_queued", ids=self._ids(ids), tenant_id=tenant_id)

    def cancel_line(self, line: str, before: int, limit: int = 500) -> dict[str, Ended]:
        """The first of a line whose position is before this, items of batches not; call it until fewer are returned."""
        return self._end_queued(Status.CANCELED, "cancel_line", line=line, before=before, limit=limit)

    def expire(self, limit: int = 500) -> dict[str, Ended]:
        """Queued rows whose time has passed; call it until nothing is returned."""
        return self._end_queued(Status.EXPIRED, "expire", limit=limit)

    def _end_queued(self, status: Status, name: str, **parameters: Any) -> dict[str, Ended]:
        def once() -> Sequence[Sequence[Any]]:
            with self._database.write_once() as connection:
                return self._database.run(connection, name, **parameters).all()

        return {id_: never_begun(status, *row) for id_, *row in self._database.retrying(once)}

    def purge(self, before: int, *, after: str | None = None, limit: int = 500) -> Purged:
        """Deletes what ended before a time (µs, database clock), among the `limit` oldest ids past `after`."""
        milliseconds = f"{max(0, before) // 1000:012x}"  # a UUIDv7 begins with the time it was made at
        page = {
            "after": after or _FIRST_ID,
            "until": f"{milliseconds[:8]}-{milliseconds[8:]}-0000-0000-000000000000",
            "before": before,
            "limit": limit,
        }

        def once() -> Purged:
            # What a crash brings back is purged again.
            with self._database.write(durable=False) as connection:
                if self._database.dialect == "postgresql":
                    last, count, blobs = self._database.run(connection, "purge", **page).one()
                    return Purged(last, count, _uuids.decode(blobs))
                last, ids = self._database.run(connection, "purge_page", **page).one()
                blobs = self._database.run(connection, "purge_blobs", ids=ids).scalar_one()
                self._database.run(connection, "purge_inputs", ids=ids)
                self._database.run(connection, "purge_deliveries", ids=ids)
                count = self._database.run(connection, "purge_predictions", ids=ids).rowcount
                return Purged(last, count, _uuids.decode(blobs))

        return self._database.retrying(once)

    # Reading

    def read(self, ids: Sequence[str]) -> dict[str, Prediction]:
        """By id; those that are not there are left out."""
        ids = _valid(ids)
        rows = self._read(lambda c: self._rows(c, ids)) if ids else []
        return {row.id: row for row in rows}

    def read_input(self, id_: str, tenant_id: str) -> Input | None:
        """The input as it was received; None also where the prediction is another tenant's."""
        if not _UUID.fullmatch(id_):
            return None
        row = self._read(lambda c: self._database.run(c, "read_input", id=id_, tenant_id=tenant_id).one_or_none())
        return None if row is None else Input(bytes(row[0]), row[1], row[2])

    def with_blobs(self, ids: Sequence[str]) -> set[str]:
        """Of these, the ones that may have something in the blob store: rows that are there and were not deleted."""
        ids = _valid(ids)
        rows = self._read(lambda c: self._database.run(c, "with_blobs", ids=self._ids(ids)).all()) if ids else ()
        return {id_ for (id_,) in rows}

    def page(
        self,
        tenant_id: str,
        *,
        status: Status | None = None,
        model: str | None = None,
        version: str | None = None,
        batch_id: str | None = None,
        after: str | None = None,
        limit: int = 20,
        scan: int = SCANNED_AT_MOST,
    ) -> Page:
        """A tenant's predictions older than `after`, without outputs; those of a batch from its last line on.

        A page looks at `scan` rows at most, so it may be short, or empty, though there are more.
        """
        place: dict[str, Any] = {"tenant_id": tenant_id, "after": after or _LAST_ID}
        wanted = {"status": status, "model": model, "version": version}
        if batch_id is not None:
            found, scanned = "list_items", "scanned_items"
            place["batch_id"] = batch_id
        elif status is Status.FAILED:
            found, scanned = "list_failed", "scanned_failed"
            del wanted["status"]
        else:
            found, scanned = "list_predictions", "scanned"

        def once(connection: sqlalchemy.Connection) -> Page:
            run = self._database.run
            ids = [row[0] for row in run(connection, found, **place, **wanted, scan=scan, limit=limit + 1)]
            there = {row.id: row for row in self._rows(connection, ids[:limit], outputs=False)}
            rows = [there[id_] for id_ in ids[:limit] if id_ in there]  # one may have been purged meanwhile
            if len(ids) > limit:
                return Page(rows=rows, after=ids[limit - 1])
            return Page(rows=rows, after=run(connection, scanned, **place, skip=scan - 1).scalar())

        return self._read(once)

    def shadows(
        self, model: str, version: str, *, after: str | None = None, limit: int = 20
    ) -> tuple[list[tuple[Prediction, Prediction | None]], str | None]:
        """(shadow, its original) of a version, newest first, and the id that the next page begins after, if any.

        None stands for an original that is gone. Deleted ones are left out, so a page may be short.
        """
        place = {"model": model, "version": version, "after": after or _LAST_ID, "first": _FIRST_ID}

        def once(connection: sqlalchemy.Connection) -> tuple[list[tuple[Prediction, Prediction | None]], str | None]:
            found = self._database.run(connection, "list_shadows", **place, limit=limit + 1).all()
            page = found[:limit]
            there = {row.id: row for row in self._rows(connection, [id_ for pair in page for id_ in pair])}
            pairs = [(there[id_], there.get(original)) for id_, original in page if id_ in there]
            pairs = [pair for pair in pairs if pair[0].deleted_at is None]
            return pairs, page[-1][0] if len(found) > limit else None

        return self._read(once)

    def shadows_of(self, id_: str) -> list[str]:
        """Ids."""
        return [row[0] for row in self._read(lambda c: self._database.run(c, "shadows_of", id=id_).all())]

    def _rows(self, connection: sqlalchemy.Connection, ids: Sequence[str], *, outputs: bool = True) -> list[Prediction]:
        if not ids:
            return []
        return [
            prediction_of(row) for row in self._database.rows(connection, "read", ids=self._ids(ids), outputs=outputs)
        ]

    def hint(self, id_: str) -> Hint | None:
        """Of a row that is queued."""
        row = self._read(lambda c: self._database.run(c, "hint", id=id_).one_or_none())
        return None if row is None else Hint(id=row[0], size=row[1], shape=row[2], position=row[3])

    def oldest_queued(self, line: str, limit: int, *, before: int | None = None) -> list[tuple[int, Hint]]:
        """(priority, hint) of a line's first rows by position, of those before position `before`; none expired."""
        bound = _FOREVER if before is None else before
        rows = self._read(lambda c: self._database.rows(c, "oldest_queued", line=line, limit=limit, before=bound))
        return [
            (priority, Hint(id=id_, size=size, shape=shape, position=position))
            for priority, id_, size, shape, position in rows
        ]

    def waiting(self, before: Mapping[str, int]) -> set[str]:
        """Of these lines, those that have a queued row before the position given, expired ones included."""
        marks = _json([{"line": line, "before": position} for line, position in before.items()])
        rows = self._read(lambda c: self._database.run(c, "waiting", marks=marks).all()) if before else ()
        return {line for (line,) in rows}

    def depth(self, lines: Sequence[str], at_most: int) -> int:
        """How many wait in these lines together, or `at_most` where it is more."""
        found = self._read(lambda c: self._database.run(c, "depth", lines=self._lines(lines), limit=at_most).scalar())
        return int(found or 0)

    def first_positions(self, line: str, limit: int) -> list[int]:
        """The positions of a line's first rows, rising."""
        return _integers.decode(
            self._read(lambda c: self._database.run(c, "first_positions", line=line, limit=limit).scalar_one())
        )

    def backlog(self, lines: Sequence[str], *, at_most: int = COUNTED_AT_MOST) -> dict[str, Backlog]:
        """Of each of the lines, empty ones too. None is counted beyond `at_most`: a count costs what it counts."""
        wanted = self._lines(lines)
        rows = self._read(lambda c: self._database.run(c, "backlog", lines=wanted, at_most=at_most).all())
        return {line: Backlog(depth, oldest) for line, depth, oldest in rows}

    def now(self) -> int:
        """The database's clock, microseconds since 1970. SQLite has the host's."""
        if self._database.dialect == "sqlite":
            return now_us()
        return int(self._read(lambda c: self._database.run(c, "now").scalar_one()))

    def count_by_status(self) -> dict[Status, int]:
        """Of all rows: slow where they are many."""
        rows = self._read(lambda c: self._database.run(c, "count_by_status").all())
        return {Status(status): count for status, count in rows}

    def _read(self, query: Callable[[sqlalchemy.Connection], T]) -> T:
        def once() -> T:
            with self._database.read() as connection:
                return query(connection)

        return self._database.retrying(once)

    def _lines(self, lines: Sequence[str]) -> str | list[str]:
        """As the dialect takes them."""
        return _json(lines) if self._database.dialect == "sqlite" else list(lines)

    def _ids(self, ids: Sequence[str]) -> str:
        """Valid ids as the dialect takes them: a JSON array, or an array literal (psycopg's own way is slow)."""
        return _json(ids) if self._database.dialect == "sqlite" else "{" + ",".join(ids) + "}"


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _valid(ids: Iterable[str]) -> list[str]:
    return [id_ for id_ in ids if _UUID.fullmatch(id_)]


def _fences(results: Iterable[tuple[str, Outcome]]) -> str:
    return _json([{"id": outcome.id, "claim": claim} for claim, outcome in results])


def _return_row(claim: str, row: Returned, *, lost: int = 0) -> dict[str, Any]:
    return {
        "id": row.id,
        "claim": claim,
        "losses": row.losses or 0,
        "lost": lost,
        "charge": int(row.charge),
        "code": row.code,
        # What killed a device may have left anything in its last words.
        "message": row.message.encode(errors="replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}"),
    }


def _became(outcome: Outcome, status: int) -> Status:
    """What a row of this status becomes: what fails while it is being canceled is canceled."""
    return Status.CANCELED if status == Status.CANCELING and outcome.error is not None else outcome.status


def _output(outcome: Outcome) -> tuple[bytes | None, str | None, int | None]:
    return outcome.output, outcome.output_type, outcome.output_bytes


def _error(outcome: Outcome) -> tuple[str | None, str | None]:
    return (None, None) if outcome.error is None else (outcome.error.code, outcome.error.message)
