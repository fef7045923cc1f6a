"""Acceptance: a group of submissions becomes rows, in one transaction."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from headway.clock import now_us
from headway.errors import StorageUnavailable
from headway.types import NewPrediction
from storage.engine import reason
from storage.faults import Fault, fault
from storage.statements import parts
from storage.verbs import FIRST_ID, Verbs, as_json


@dataclass(frozen=True, slots=True)
class Refused:
    """A row that the database refuses for its data."""

    message: str


@dataclass(frozen=True, slots=True)
class Held:
    """A submission whose idempotency key another row has."""

    id: str  # that row's
    same: bool  # it was the same request


class Submitting(Verbs):
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
        with self._database.direct(durable=durable) as direct:
            now = now_us()
            inserted = 0
            for part in parts(len(rows)):
                values = [_values(row, n) for n, row in enumerate(rows[part], start=now + part.start)]
                bodies = [(row.id, row.body, row.content_type, row.blob_bytes) for row in rows[part]]
                inserted += direct.run_filled("insert_predictions", values)
                direct.run_filled("insert_inputs", bodies)
            if inserted == len(rows):
                return list(range(now, now + inserted))
            return self._existing(direct.all, rows)

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
                "metadata": as_json(row.metadata),
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
            found = self._database.run(connection, "insert_predictions", rows=as_json(fields), bodies=bodies).all()
            if len(found) < len(rows):

                def ask(name: str, **parameters: Any) -> Any:
                    return self._database.run(connection, name, **parameters)

                return self._existing(ask, rows)
        positions = {row[0]: row[1] for row in found}
        return [positions[row.id] for row in rows]

    def _existing(self, ask: Callable[..., Any], rows: Sequence[NewPrediction]) -> list[int | Held]:
        """Of a group that did not go in as a whole: where each row is, or who has its key.

        `ask` executes a statement by its name, in the same transaction.
        """
        ids = self._ids([row.id for row in rows])
        found: dict[str, int | Held] = {row[0]: row[1] for row in ask("positions", ids=ids)}
        keyed = [
            {"id": row.id, "tenant_id": row.tenant_id, "key": row.idempotency_key, "digest": row.idempotency_digest}
            for row in rows
            if row.id not in found
        ]
        for ours, holder, same in ask("holders", rows=as_json(keyed)):
            found[ours] = Held(holder, bool(same))
        ask("forget_inputs", ids=ids)
        missing = [row.id for row in rows if row.id not in found]
        if missing:  # who had the key was purged between two statements
            raise StorageUnavailable("an idempotency key changed hands; send it again")
        return [found[row.id] for row in rows]

    def holder(self, tenant_id: str, key: str, digest: str) -> Held | None:
        """The row that has an idempotency key, if any."""
        wanted = as_json([{"id": FIRST_ID, "tenant_id": tenant_id, "key": key, "digest": digest}])
        rows = self._read(lambda c: self._database.run(c, "holders", rows=wanted).all())
        return next((Held(id_, bool(same)) for _, id_, same in rows), None)


def _values(row: NewPrediction, position: int) -> tuple[Any, ...]:
    """In the order of `insert_predictions`."""
    return (
        *(row.id, row.tenant_id, row.model, row.version, row.alias, row.line, position, position, row.priority),
        *(row.size, row.shape, row.max_attempts, as_json(row.metadata)),
        None if row.queue_timeout_us is None else position + row.queue_timeout_us,
        *(row.queue_timeout_us, row.execution_timeout_us, row.webhook, row.webhook_events),
        *(row.idempotency_key, row.idempotency_digest, row.traceparent, row.shadow_of),
    )
