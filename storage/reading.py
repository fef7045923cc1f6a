"""Reading: rows, pages of lists, and what waits in a line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import sqlalchemy

from headway.clock import now_us
from headway.states import Status
from headway.types import Hint, Input, Prediction
from storage.verbs import FIRST_ID, FOREVER, LAST_ID, SCANNED_AT_MOST, UUID, Verbs, as_json, valid

#: Queued rows of one line that are counted: 30 ms, where a million would be a third of a second and more.
COUNTED_AT_MOST = 100_000

_integers = msgspec.json.Decoder(list[int])


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Rows of a list, newest first."""

    rows: list[Prediction]
    after: str | None  # where the next page begins; None: there is none


@dataclass(frozen=True, slots=True)
class Backlog:
    depth: int  # queued rows, as far as they were counted
    oldest: int | None  # position of the first


class Reading(Verbs):
    def read(self, ids: Sequence[str]) -> dict[str, Prediction]:
        """By id; those that are not there are left out."""
        ids = valid(ids)
        rows = self._read(lambda c: self._rows(c, ids)) if ids else []
        return {row.id: row for row in rows}

    def read_input(self, id_: str, tenant_id: str) -> Input | None:
        """The input as it was received; None also where the prediction is another tenant's."""
        if not UUID.fullmatch(id_):
            return None
        row = self._read(lambda c: self._database.run(c, "read_input", id=id_, tenant_id=tenant_id).one_or_none())
        return None if row is None else Input(bytes(row[0]), row[1], row[2])

    def with_blobs(self, ids: Sequence[str]) -> set[str]:
        """Of these, the ones that may have something in the blob store: rows that are there and were not deleted."""
        ids = valid(ids)
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
        place: dict[str, Any] = {"tenant_id": tenant_id, "after": after or LAST_ID}
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
        place = {"model": model, "version": version, "after": after or LAST_ID, "first": FIRST_ID}

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

    def hint(self, id_: str) -> Hint | None:
        """Of a row that is queued."""
        row = self._read(lambda c: self._database.run(c, "hint", id=id_).one_or_none())
        return None if row is None else Hint(id=row[0], size=row[1], shape=row[2], position=row[3])

    def oldest_queued(self, line: str, limit: int, *, before: int | None = None) -> list[tuple[int, Hint]]:
        """(priority, hint) of a line's first rows by position, of those before position `before`; none expired."""
        bound = FOREVER if before is None else before
        rows = self._read(lambda c: self._database.rows(c, "oldest_queued", line=line, limit=limit, before=bound))
        return [
            (priority, Hint(id=id_, size=size, shape=shape, position=position))
            for priority, id_, size, shape, position in rows
        ]

    def waiting(self, before: Mapping[str, int]) -> set[str]:
        """Of these lines, those that have a queued row before the position given, expired ones included."""
        marks = as_json([{"line": line, "before": position} for line, position in before.items()])
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
