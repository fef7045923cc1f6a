"""Webhooks that are owed, and the secrets they are signed with.

Deliveries come from a trigger of the schema, in the transaction that ends (or first claims) a prediction. Leases are
durable: what was written before one is on disk with it, so no receiver hears of a state that a crash could take back.
"""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from headway.batches import Batch
from headway.clock import now_us
from headway.types import Prediction
from headway.webhooks import WebhookStatus, new_secret
from storage.engine import Database
from storage.rows import prediction_of

#: After a rotation, as long both secrets sign.
ROTATION = datetime.timedelta(hours=24)


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one POST."""

    at: int  # microseconds since 1970
    seconds: float
    status_code: int | None  # None: there was no answer
    error: str | None  # None: it was delivered


@dataclass(frozen=True, slots=True, kw_only=True)
class Leased:
    """A delivery that this process is to send now."""

    id: str  # the webhook-id
    tenant_id: str
    event: str
    url: str
    receiver: str
    at: int
    attempts: int  # with this one: the fence of `record`
    step: int  # with this one, in the schedule
    log: list[Attempt]
    subject: Prediction | Batch
    traceparent: str | None  # of the submission


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of a leased delivery. `state` PENDING: again after `delay_s`."""

    leased: Leased
    state: WebhookStatus
    attempt: Attempt
    delay_s: float = 0.0


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """As it is listed."""

    id: str
    subject_id: str  # the prediction's, or the batch's
    event: str
    url: str
    at: int
    due_at: int
    status: WebhookStatus
    log: list[Attempt]


@dataclass(frozen=True, slots=True)
class Owed:
    """What has not been delivered yet."""

    pending: int  # 10,000 stands for more as well
    due_at: int | None  # of the first that is due, of a thousand receivers at most; None: there is none


#: Attempts that are kept of one delivery: more only come of redeliveries.
_MOST_ATTEMPTS = 50

_log = msgspec.json.Decoder(list[Attempt])
_batch = msgspec.json.Decoder(Batch)


class Deliveries:
    """Every verb raises StorageUnavailable when SQL is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def due_receivers(self) -> list[str]:
        """Those with something to send now."""

        def once() -> list[str]:
            with self._database.read() as connection:
                return [row[0] for row in self._database.run(connection, "due_receivers")]

        return self._database.retrying(once)

    def owed(self) -> Owed:
        """Cheap however many wait."""

        def once() -> Owed:
            with self._database.read() as connection:
                return Owed(*self._database.run(connection, "owed_webhooks").one())

        return self._database.retrying(once)

    def lease(self, rooms: Mapping[str, int], lease_s: float) -> list[Leased]:
        """`rooms`: how many at most of each receiver, the longest due; nobody else gets them while the lease lasts."""
        lease = int(lease_s * 1e6)
        take = self._lease_sqlite if self._database.dialect == "sqlite" else self._lease_postgresql
        return [_leased(row) for row in self._database.retrying(lambda: take(rooms, lease))]

    def _lease_sqlite(self, rooms: Mapping[str, int], lease: int) -> Sequence[Sequence[Any]]:
        run, rows = self._database.run, self._database.rows
        with self._database.write() as connection:
            ids: list[Any] = []
            for receiver, room in rooms.items():
                ids += rows(connection, "due_deliveries", receiver=receiver, room=room)
            run(connection, "lease_deliveries", ids=_json(ids), lease=lease)
            return rows(connection, "leased_deliveries", ids=_json(ids))

    def _lease_postgresql(self, rooms: Mapping[str, int], lease: int) -> Sequence[Sequence[Any]]:
        asked = [{"receiver": receiver, "room": room} for receiver, room in rooms.items()]
        with self._database.write_once() as connection:
            return self._database.run(connection, "lease_deliveries", rooms=_json(asked), lease=lease).all()

    def renew(self, attempts: Mapping[str, int], lease_s: float) -> None:
        """Leases that go on: id → attempts, as leased. Forgotten by a crash, they are only sent again."""
        rows = _json([{"id": id_, "attempts": count} for id_, count in attempts.items()])

        def once() -> None:
            with self._database.write_once(durable=False) as connection:
                self._database.run(connection, "renew_deliveries", rows=rows, lease=int(lease_s * 1e6))

        self._database.retrying(once)

    def record(self, results: Sequence[Result]) -> None:
        """One durable transaction. Whatever was leased again meanwhile stays as it is."""
        ordered = sorted(results, key=lambda result: result.leased.subject.id)
        ended = [result.leased.subject.id for result in ordered if result.state is not WebhookStatus.PENDING]
        rows = _json(
            [
                {
                    "id": result.leased.id,
                    "attempts": result.leased.attempts,
                    "state": result.state - 1,
                    "delay": int(result.delay_s * 1e6),
                    "log": _json([*result.leased.log, result.attempt][-_MOST_ATTEMPTS:]),
                }
                for result in ordered
            ]
        )

        def once() -> None:
            with self._database.write() as connection:
                run = self._database.run
                if ended and self._database.dialect == "postgresql":
                    run(connection, "lock_predictions", ids=ended)
                run(connection, "record_deliveries", rows=rows)
                if ended:
                    run(connection, "note_webhooks", ids=self._ids(ended))

        self._database.retrying(once)

    def of(self, subject_id: str, tenant_id: str) -> list[Delivery]:
        """Of one prediction, or one batch, oldest first."""

        def once() -> list[Delivery]:
            with self._database.read() as connection:
                rows = self._database.run(
                    connection, "deliveries_of", prediction_id=subject_id, tenant_id=tenant_id
                ).all()
            return [_delivery(row) for row in rows]

        return self._database.retrying(once)

    def redeliver(self, id_: str, tenant_id: str) -> Delivery | None:
        """Due at once, with the schedule before it; one that is under way is left alone. None: there is none."""

        def once() -> Delivery | None:
            with self._database.write() as connection:
                run = self._database.run
                row = run(connection, "delivery", id=id_, tenant_id=tenant_id).one_or_none()
                if row is None:
                    return None
                if self._database.dialect == "postgresql":
                    run(connection, "lock_predictions", ids=[str(row[1])])
                run(connection, "redeliver", id=id_)
                run(connection, "note_webhooks", ids=self._ids([str(row[1])]))
                return _delivery(run(connection, "delivery", id=id_, tenant_id=tenant_id).one())

        return self._database.retrying(once)

    def _ids(self, ids: Sequence[str]) -> Any:
        return _json(ids) if self._database.dialect == "sqlite" else list(ids)


class Secrets:
    """One secret for a tenant, and the one before it while a rotation lasts."""

    def __init__(self, database: Database, default: str | None = None) -> None:
        """`default` signs for tenants that have none in SQL."""
        self._database = database
        self._default = default

    def valid(self, tenant_id: str) -> list[str]:
        """Newest first, at least one: a tenant that has none is given one."""
        row = self._row(tenant_id)
        if row is None and self._default is not None:
            return [self._default]
        if row is None:
            self.ensure(tenant_id)
            row = self._row(tenant_id)
        assert row is not None  # secrets are never deleted
        secret, previous, rotated_at = row
        if previous is not None and now_us() < rotated_at + ROTATION // datetime.timedelta(microseconds=1):
            return [secret, previous]
        return [secret]

    def ensure(self, tenant_id: str) -> bool:
        """Whether this call has made the tenant's first secret."""
        if self._default is not None or self._row(tenant_id) is not None:
            return False

        def once() -> bool:
            with self._database.write() as connection:
                made = self._database.run(
                    connection, "add_webhook_secret", tenant_id=tenant_id, secret=new_secret()
                ).rowcount
            return made == 1

        return self._database.retrying(once)

    def rotate(self, tenant_id: str) -> str:
        """The new secret; the one before it signs as well for 24 hours."""
        secret = new_secret()

        def once() -> None:
            before = self.valid(tenant_id)[0]
            if before == secret:
                return  # a first try, whose answer was lost
            with self._database.write() as connection:
                self._database.run(
                    connection, "rotate_webhook_secret", tenant_id=tenant_id, secret=secret, previous=before
                )

        self._database.retrying(once)
        return secret

    def _row(self, tenant_id: str) -> Sequence[Any] | None:
        def once() -> Sequence[Any] | None:
            with self._database.read() as connection:
                return self._database.run(connection, "webhook_secret", tenant_id=tenant_id).one_or_none()

        return self._database.retrying(once)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _leased(row: Sequence[Any]) -> Leased:
    id_, tenant_id, event, url, receiver, at, attempts, step, log, record, output, traceparent = row
    of_batch = event.startswith("batch.")
    subject: Prediction | Batch = _batch.decode(record) if of_batch else prediction_of(msgspec.json.decode(record))
    if isinstance(output, str):  # SQLite's JSON has it in hexadecimal
        output = bytes.fromhex(output)
    return Leased(
        id=id_,
        tenant_id=tenant_id,
        event=event,
        url=url,
        receiver=receiver,
        at=at,
        attempts=attempts,
        step=step,
        log=_log.decode(log),
        subject=subject if output is None else msgspec.structs.replace(subject, output=bytes(output)),
        traceparent=traceparent,
    )


def _delivery(row: Sequence[Any]) -> Delivery:
    id_, subject_id, event, url, at, due_at, state, log = row
    return Delivery(
        id=id_,
        subject_id=str(subject_id),
        event=event,
        url=url,
        at=at,
        due_at=due_at,
        status=WebhookStatus(state + 1),
        log=_log.decode(log),
    )
