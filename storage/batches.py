"""The life of batches in SQL, and of their items as far as it is the batch's business.

A file comes in blocks, and a block is stored once: each is one transaction that says which block it is and what came
before it. Who sends the same file again goes on where it broke off. What has ended is counted from the first line on,
by whoever looks after the batch; two that do it at once count nothing twice.
"""

import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import msgspec
import sqlalchemy

from headway.batches import Batch, BatchStatus, Counts
from headway.clock import now_us
from headway.errors import ItemError
from headway.notices import Ended
from headway.states import Status
from headway.types import BULK_PRIORITY, Hint
from storage.engine import Database
from storage.rows import bytes_of, item_error, never_begun
from storage.statements import parts

T = TypeVar("T")

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_LAST_ID = "ffffffff-ffff-ffff-ffff-ffffffffffff"

#: Items that one look at what has ended goes over, and one transaction that ends some.
COUNTED_AT_ONCE = 50_000
ENDED_AT_ONCE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class NewBatch:
    """A batch to be."""

    id: str  # UUIDv7, canonical
    tenant_id: str
    model: str
    version: str
    alias: str | None
    line: str
    priority: int  # 0 first … 9
    max_attempts: int
    window_us: int | None = None  # to be done in, once its file is complete
    webhook: str | None = None  # a URL as `egress.Egress.checked_url` has made it
    idempotency_key: str | None = None
    idempotency_digest: str | None = None  # of the route and its parameters, with a key only


class NewItem(NamedTuple):
    """A line of the file: an input, or what is wrong with it."""

    id: str
    line: int
    custom_id: str | None
    size: int
    shape: str | None
    body: bytes  # JSON, empty where there is an error, or where it lies in the blob store
    error: ItemError | None
    blob_bytes: int | None = None  # of what lies there


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """The next lines of a file."""

    number: int  # from 0
    before: str  # the digest of all blocks before it
    after: str  # the same with this one
    last_line: int
    items: Sequence[NewItem]


class ItemResult(NamedTuple):
    """How a line ended."""

    line: int
    id: str
    custom_id: str | None
    status: Status
    output: bytes | None  # JSON
    error: ItemError | None
    claim: str | None
    output_type: str | None
    output_bytes: int | None
    deleted: bool


class BatchPage(NamedTuple):
    """Batches, newest first."""

    rows: list[Batch]
    more: bool


class Batches:
    """Every verb raises StorageUnavailable when SQL is away. An id that is no UUID names no batch."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # Coming in

    def begin(self, new: NewBatch, digest: str) -> Batch:
        """The batch, validating; or the one that has its idempotency key already. `digest`: of no block at all."""
        values = {
            name: getattr(new, name)
            for name in (
                "id", "tenant_id", "model", "version", "alias", "line", "priority", "max_attempts", "window_us",
                "webhook", "idempotency_key", "idempotency_digest",
            )
        }  # fmt: skip

        def once() -> Batch | None:
            with self._database.write(durable=False) as connection:
                self._database.run(connection, "begin_batch", **values, digest=digest)
                if (row := self._one(connection, "read_batch", id=new.id)) is not None:
                    return row
                return self._one(connection, "keyed_batch", tenant_id=new.tenant_id, key=new.idempotency_key)

        batch = self._database.retrying(once)
        assert batch is not None  # an INSERT that conflicts has found the row of the key, and rows outlive uploads
        return batch

    def keyed(self, tenant_id: str, key: str) -> Batch | None:
        """The batch that has an idempotency key, if any."""
        return self._read(lambda c: self._one(c, "keyed_batch", tenant_id=tenant_id, key=key))

    def append(self, batch: Batch, block: Block) -> bool:
        """Stores the next block; False where it is not the next one (any more), or the batch takes none.

        What a crash of the machine takes back, `seal` would miss.
        """
        store = self._append_sqlite if self._database.dialect == "sqlite" else self._append_postgresql
        advance = {
            "id": batch.id,
            "number": block.number,
            "before": block.before,
            "after": block.after,
            "last_line": block.last_line,
            "items": len(block.items),
        }
        tries = 0

        def once() -> bool:
            nonlocal tries
            tries += 1
            if store(batch, block.items, advance):
                return True
            if tries == 1:
                return False
            row = self.read(batch.id)  # was it the first try that did it?
            return row is not None and (row.blocks, row.digest) == (block.number + 1, block.after)

        return self._database.retrying(once)

    def _append_sqlite(self, batch: Batch, items: Sequence[NewItem], advance: Mapping[str, Any]) -> bool:
        now = now_us()
        rows = [self._columns(batch, item, now) for item in items]
        inputs = [(item.id, item.body, None, item.blob_bytes) for item in items if item.error is None]
        with self._database.direct(durable=False) as direct:
            if not direct.run("advance_batch", **advance):
                return False
            for part in parts(len(rows)):
                direct.run_filled("insert_items", rows[part])
            for part in parts(len(inputs)):
                direct.run_filled("insert_inputs", inputs[part])
        return True

    def _append_postgresql(self, batch: Batch, items: Sequence[NewItem], advance: Mapping[str, Any]) -> bool:
        with self._database.write(durable=False) as connection:
            if not self._database.run(connection, "advance_batch", **advance).rowcount:
                return False
            self._insert_postgresql(connection, batch, items)
        return True

    def _insert_postgresql(self, connection: sqlalchemy.Connection, batch: Batch, items: Sequence[NewItem]) -> None:
        now = int(self._database.run(connection, "now").scalar_one())
        driver: Any = connection.connection.driver_connection
        with driver.cursor() as cursor:
            with cursor.copy(f"COPY predictions ({', '.join(_ITEM_COLUMNS)}) FROM STDIN") as copy:
                for item in items:
                    copy.write_row(self._columns(batch, item, now))
            with cursor.copy("COPY inputs (id, body, blob_bytes) FROM STDIN (FORMAT BINARY)") as copy:
                copy.set_types(["uuid", "bytea", "int8"])
                for item in items:
                    if item.error is None:
                        copy.write_row((uuid.UUID(item.id), item.body, item.blob_bytes))

    @staticmethod
    def _columns(batch: Batch, item: NewItem, now: int) -> tuple[Any, ...]:
        failed = item.error is not None
        return (
            item.id,
            batch.tenant_id,
            batch.model,
            batch.version,
            batch.alias,
            batch.line,
            now,
            now,
            now if failed else None,
            batch.priority + BULK_PRIORITY,
            item.size,
            item.shape,
            batch.max_attempts,
            "{}",
            int(Status.FAILED if failed else Status.QUEUED),
            None,
            True if failed else None,
            item.error.code if item.error is not None else None,
            item.error.message if item.error is not None else None,
            batch.id,
            item.line,
            item.custom_id,
        )

    def seal(self, id_: str, blocks: int, digest: str) -> Batch | None:
        """The file is complete: durable from here on, and it begins. None where something else was stored."""

        def once() -> Batch | None:
            with self._database.write() as connection:
                self._database.run(connection, "seal_batch", id=id_, blocks=blocks, digest=digest)
                row = self._one(connection, "read_batch", id=id_)
            sealed = row is not None and row.sealed_at is not None and (row.blocks, row.digest) == (blocks, digest)
            return row if sealed else None

        return self._database.retrying(once)

    def abandon(self, id_: str, reason: str, *, untouched_s: float = 0.0) -> bool:
        """Whether this call has begun to end it: its file will not be completed."""
        return self._changed("abandon_batch", id=id_, reason=reason, untouched=int(untouched_s * 1e6))

    # What clients ask

    def read(self, id_: str, tenant_id: str | None = None) -> Batch | None:
        """None also where it is another tenant's."""
        if not _UUID.fullmatch(id_):
            return None
        row = self._read(lambda c: self._one(c, "read_batch", id=id_))
        return row if row is not None and tenant_id in (None, row.tenant_id) else None

    def page(
        self, tenant_id: str, *, status: BatchStatus | None = None, after: str | None = None, limit: int = 20
    ) -> BatchPage:
        """A tenant's batches older than `after`."""
        place = {"tenant_id": tenant_id, "after": after or _LAST_ID, "status": status, "limit": limit + 1}
        rows = self._read(lambda c: self._all(c, "list_batches", **place))
        return BatchPage(rows[:limit], len(rows) > limit)

    def ended(self, limit: int) -> list[Batch]:
        """Of all tenants, the last to end first: those among the newest `limit` batches."""
        rows = self._read(lambda c: self._all(c, "newest_batches", limit=limit))
        ended = [row for row in rows if row.completed_at is not None]
        return sorted(ended, key=lambda row: row.completed_at or 0, reverse=True)

    def results(self, id_: str, after: int, limit: int) -> list[ItemResult]:
        """What has ended of the lines past `after`, up to the first that has not."""
        rows = self._read(lambda c: self._database.rows(c, "item_results", id=id_, after=after, limit=limit))
        found = []
        for line, item, custom_id, number, output, code, message, claim, output_type, output_bytes, deleted in rows:
            status = _TERMINAL.get(number)
            if status is None:
                break
            body = None if output is None else bytes_of(output)
            error = None if code is None else item_error(code, message)
            told = (claim, output_type, output_bytes, deleted is not None)
            found.append(ItemResult(line, item, custom_id, status, body, error, *told))
        return found

    def cancel(self, id_: str, tenant_id: str) -> tuple[bool, Batch | None]:
        """(whether this call changed it, the row)."""
        if not _UUID.fullmatch(id_):
            return False, None
        changed = self._changed("cancel_batch", id=id_, tenant_id=tenant_id)
        return changed, self.read(id_, tenant_id)

    # Looking after them

    def open(self) -> list[Batch]:
        """Those that have not ended, in the order of their priorities, then of their age."""
        rows = self._read(lambda c: self._all(c, "open_batches"))
        return sorted(rows, key=lambda row: (row.priority, row.id))

    def hints(self, id_: str, after: int, limit: int) -> list[tuple[int, int, Hint]]:
        """(line, priority, hint) of queued items past a line, in the order of lines."""
        rows = self._read(lambda c: self._database.rows(c, "item_hints", id=id_, after=after, limit=limit))
        return [
            (line, priority, Hint(id=item, size=size, shape=shape, position=position))
            for line, priority, item, size, shape, position in rows
        ]

    def feed(self, id_: str, fed: int, to: int) -> bool:
        """Whether the lines from `fed` to `to` are this caller's to publish."""
        return self._changed("feed_batch", durable=False, id=id_, fed=fed, to=to)

    def farthest(self, batch: Batch) -> int:
        """The last line that a worker has taken so far."""
        found = self._read(
            lambda c: self._database.run(c, "farthest_item", id=batch.id, after=batch.counted, fed=batch.fed).scalar()
        )
        return batch.counted if found is None else int(found)

    def tally(self, batch: Batch) -> tuple[int, Counts]:
        """(the line up to which every item has ended, how those since `counted` did)."""
        until = min(batch.counted + COUNTED_AT_ONCE, batch.last_line)

        def query(connection: sqlalchemy.Connection) -> tuple[int, Counts]:
            run = self._database.run
            place = {"id": batch.id, "after": batch.counted, "until": until}
            first = run(connection, "first_unended", **place).scalar()
            reached = until if first is None else int(first) - 1
            if reached <= batch.counted:
                return batch.counted, Counts()
            return reached, _counts(run(connection, "count_items", **{**place, "until": reached}).all())

        return self._read(query)

    def glance(self, id_: str, after: int, until: int) -> Counts:
        """How items between two lines have ended, those that have."""
        place = {"id": id_, "after": after, "until": until}
        return self._read(lambda c: _counts(self._database.run(c, "count_items", **place).all()))

    def count(self, batch: Batch, counted: int, more: Counts, ahead: Counts, rate: float | None) -> bool:
        """Whether these were counted by this call, and not by another since `batch` was read."""
        values = {"id": batch.id, "before": batch.counted, "counted": counted, "rate": rate}
        ended = {name: getattr(more, name) for name in Counts.__struct_fields__}
        return self._changed("count_batch", durable=False, **values, **ended, ahead=_json(ahead))

    def expire(self, id_: str) -> bool:
        """Whether this call has begun to end it: its window is over."""
        return self._changed("expire_batch", id=id_)

    def end_items(self, batch: Batch, after: int) -> tuple[int | None, dict[str, Ended]]:
        """Ends what is queued past a line, a page of it: (where the next page begins, or None, what has ended)."""
        status = Status.EXPIRED if batch.ending is BatchStatus.EXPIRED else Status.CANCELED
        page = {"id": batch.id, "after": after, "expired": int(status is Status.EXPIRED), "limit": ENDED_AT_ONCE}

        def once() -> Sequence[Sequence[Any]]:
            with self._database.write_once() as connection:
                return self._database.run(connection, "end_items", **page).all()

        rows = self._database.retrying(once)
        ended = {id_: never_begun(status, *row) for _, id_, *row in rows}
        return (max(row[0] for row in rows) if len(rows) == ENDED_AT_ONCE else None), ended

    def cancel_running(self, batch: Batch) -> list[str]:
        """Items that become canceling, a page of them."""
        page = {"id": batch.id, "after": batch.counted, "limit": ENDED_AT_ONCE}

        def once() -> list[str]:
            with self._database.write_once() as connection:
                return [row[0] for row in self._database.run(connection, "cancel_items", **page)]

        return self._database.retrying(once)

    def complete(self, id_: str) -> Batch | None:
        """The batch, if this call has ended it: all its items had ended. Its webhook is owed from then on."""

        def once() -> Batch | None:
            with self._database.write() as connection:
                if not self._database.run(connection, "complete_batch", id=id_).rowcount:
                    return None
                row = self._one(connection, "read_batch", id=id_)
                assert row is not None
                if row.webhook is not None:
                    self._database.run(connection, "owe_batch", **_delivery(row))
            return row

        return self._database.retrying(once)

    def purge(self, before: int) -> int:
        """How many batches that ended before a time, and whose items are gone, are gone too."""

        def once() -> int:
            with self._database.write_once(durable=False) as connection:
                return self._database.run(connection, "purge_batches", before=before).rowcount

        return self._database.retrying(once)

    def _changed(self, name: str, *, durable: bool = True, **parameters: Any) -> bool:
        changed = False

        def once() -> bool:
            nonlocal changed
            with self._database.write_once(durable=durable) as connection:
                changed |= self._database.run(connection, name, **parameters).rowcount == 1
            return changed

        return self._database.retrying(once)

    def _one(self, connection: sqlalchemy.Connection, name: str, **parameters: Any) -> Batch | None:
        return next(iter(self._all(connection, name, **parameters)), None)

    def _all(self, connection: sqlalchemy.Connection, name: str, **parameters: Any) -> list[Batch]:
        rows = self._database.run(connection, name, **parameters).mappings()
        return [_batch_of({str(key): value for key, value in row.items()}) for row in rows]

    def _read(self, query: Callable[[sqlalchemy.Connection], T]) -> T:
        def once() -> T:
            with self._database.read() as connection:
                return query(connection)

        return self._database.retrying(once)


_TERMINAL = {int(status): status for status in Status if status.terminal}

#: What a line's row begins with, in the order of `_columns`.
_ITEM_COLUMNS = (
    "id", "tenant_id", "model", "version", "alias", "line", "position", "created_at", "completed_at", "priority",
    "size", "shape", "max_attempts", "metadata", "status", "queued", "failed", "error_code", "error_message",
    "batch_id", "batch_index", "custom_id",
)  # fmt: skip

_ahead = msgspec.json.Decoder(Counts)
_PLAIN = [name for name in Batch.__struct_fields__ if name not in ("id", "status", "ending", "counts", "ahead")]


def _batch_of(row: Mapping[str, Any]) -> Batch:
    ending, ahead = row["ending"], row["ahead"]
    return Batch(
        id=str(row["id"]),
        status=BatchStatus(row["status"]),
        ending=None if ending is None else BatchStatus(ending),
        counts=Counts(*(row[name] for name in Counts.__struct_fields__)),
        ahead=Counts() if ahead is None else _ahead.decode(ahead),
        **{name: row[name] for name in _PLAIN},
    )


def _counts(rows: Sequence[Sequence[Any]]) -> Counts:
    by_status = {Status(status): count for status, count in rows}
    return Counts(
        *(by_status.get(one, 0) for one in (Status.SUCCEEDED, Status.FAILED, Status.CANCELED, Status.EXPIRED))
    )


def _delivery(row: Batch) -> dict[str, Any]:
    scheme, _, rest = (row.webhook or "").partition("://")
    return {
        "id": f"{row.id}-{row.revision}",
        "batch_id": row.id,
        "tenant_id": row.tenant_id,
        "event": f"batch.{row.status.label}",
        "url": row.webhook,
        "receiver": f"{scheme}://{rest.partition('/')[0]}",
        "at": row.completed_at,
        "record": msgspec.json.encode(row).decode(),
    }


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
