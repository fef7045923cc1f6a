"""Changes that clients, operators and the clock make: cancel, retry, delete, progress, expiry, retention."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
import sqlalchemy

from headway.notices import Ended
from headway.states import Status
from headway.types import Hint, Prediction
from storage.rows import never_begun
from storage.verbs import FIRST_ID, FOREVER, SCANNED_AT_MOST, UUID, Verbs, as_json, valid

_uuids = msgspec.json.Decoder(list[str])


class Purged(NamedTuple):
    """One page of a round."""

    last: str | None  # the id it ended with; None when there is nothing older left to look at
    gone: int  # how many went
    blobs: list[str]  # of those, the ones that had something in the blob store


class Redriven(NamedTuple):
    """One page of a bulk retry."""

    queued: list[tuple[str, int, Hint]]  # (line, priority, hint): to be published
    last: tuple[str, str] | None  # (tenant, id) that the next page begins after; None: there is none


class Changing(Verbs):
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

        for id_ in valid(ids):
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
        from_tenant, from_id = after or (tenant_id or "", FIRST_ID)
        place = {"from_tenant": from_tenant, "after": from_id}
        wanted = {
            "status": status,
            "tenant": tenant_id,
            "model": model,
            "version": version,
            "code": code,
            "since": since or 0,
            "until": FOREVER if until is None else until,
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
        if not UUID.fullmatch(id_):
            return None
        tenant: str | None = self._read(lambda c: self._database.run(c, "tenant_of", id=id_).scalar())
        return tenant

    def _change(self, name: str, id_: str, tenant_id: str, *then: str) -> tuple[bool, Prediction | None]:
        """A verb of one row, durable; None where there is no such row, or it is another tenant's."""
        if not UUID.fullmatch(id_):
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
        ids = valid(ids)
        rows = self._read(lambda c: self._database.run(c, "canceling", ids=self._ids(ids)).all()) if ids else ()
        return {row[0]: row[1] for row in rows}

    def progress(self, rows: Iterable[tuple[str, str, bytes]]) -> None:
        """(id, claim, JSON) of what models said last; nothing is lost if it is lost."""
        said = [{"id": id_, "claim": claim, "progress": json.decode()} for id_, claim, json in rows]

        def once() -> None:
            with self._database.write_once(durable=False) as connection:
                self._database.run(connection, "progress", rows=as_json(said))

        if said:
            self._database.retrying(once)

    def cancel_queued(self, ids: Sequence[str], tenant_id: str) -> dict[str, Ended]:
        """Those of this tenant that are still queued become canceled; the others stay as they are."""
        ids = valid(ids)
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
            "after": after or FIRST_ID,
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
