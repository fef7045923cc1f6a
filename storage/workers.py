"""Workers and their beats.

A worker is live until somebody declares it dead, and then never again: its id is new at every start. Death is decided
by whoever watches the beats on a clock of their own, so no clock is compared with another.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from headway.registry import Device, DeviceStats, Stats
from storage.engine import Database

#: How long the janitor's lease lasts, which is taken again every two seconds.
JANITOR_LEASE_S = 10.0

_stats = msgspec.json.Decoder(DeviceStats)
_uuids = msgspec.json.Decoder(list[str])


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What a worker has done with one model version since it started."""

    model: str
    version: str
    ended: int  # predictions
    rate: float  # per second, lately
    stats: Stats = field(default_factory=Stats)


class Workers:
    """Every verb raises StorageUnavailable when SQL is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def register(self, worker_id: str, device: str, host: str, pid: int) -> None:
        def once() -> None:
            with self._database.write_once() as connection:
                self._database.run(connection, "register_worker", id=worker_id, device=device, host=host, pid=pid)

        self._database.retrying(once)

    def beat(self, worker_id: str, served: Sequence[Served] = (), device: DeviceStats | None = None) -> bool:
        """False: it is not live any more and must exit."""

        def once() -> bool:
            with self._database.write(durable=False) as connection:
                live = self._database.run(connection, "beat", id=worker_id).rowcount == 1
                for one in served if live else ():
                    self._database.run(
                        connection,
                        "served",
                        worker_id=worker_id,
                        model=one.model,
                        version=one.version,
                        ended=one.ended,
                        rate=one.rate,
                        stats=msgspec.json.encode(one.stats).decode(),
                    )
                if live and device is not None:
                    stats = msgspec.json.encode(device).decode()
                    self._database.run(connection, "device_stats", id=worker_id, stats=stats)
            return live

        return self._database.retrying(once)

    def beats(self) -> dict[str, int]:
        """Of the live ones: id → how often it has beaten."""

        def once() -> dict[str, int]:
            with self._database.read() as connection:
                return {row[0]: row[1] for row in self._database.run(connection, "beats")}

        return self._database.retrying(once)

    def devices(self) -> list[Device]:
        """Of the live ones, by host and device."""

        def once() -> list[Device]:
            with self._database.read() as connection:
                rows = self._database.run(connection, "devices").all()
            return [
                Device(
                    worker_id=id_,
                    device=device,
                    host=host,
                    started_at=started_at,
                    stats=DeviceStats() if stats is None else _stats.decode(stats),
                )
                for id_, device, host, started_at, stats in rows
            ]

        return self._database.retrying(once)

    def mark_dead(self, worker_id: str, beat: int | None = None) -> bool:
        """Whether this call did it. With `beat`, only if the worker has not beaten since."""
        name = "mark_dead" if beat is None else "mark_dead_at"

        def once() -> bool:
            with self._database.write_once() as connection:
                return self._database.run(connection, name, id=worker_id, beat=beat).rowcount == 1

        return self._database.retrying(once)

    def retire(self, worker_id: str) -> None:
        """A clean exit. What it may still own is given back like a dead worker's."""

        def once() -> None:
            with self._database.write() as connection:
                self._database.run(connection, "forget_worker", id=worker_id)
                self._database.run(connection, "forget_placements")
                self._database.run(connection, "forget_holdings")

        self._database.retrying(once)

    def claims(self, worker_id: str) -> dict[str, list[str]]:
        """Claim id → ids of its predictions that have not ended; the list may be empty."""

        def once() -> dict[str, list[str]]:
            with self._database.read() as connection:
                rows = self._database.run(connection, "worker_claims", worker_id=worker_id).all()
            return {claim: _uuids.decode(ids) for claim, ids in rows}

        return self._database.retrying(once)

    def forget_dead(self) -> None:
        """Rows of dead workers that own nothing any more, and what was loaded on them."""

        def once() -> None:
            with self._database.write() as connection:
                self._database.run(connection, "forget_dead")
                self._database.run(connection, "forget_placements")
                self._database.run(connection, "forget_holdings")

        self._database.retrying(once)

    def lease_left(self, name: str) -> float | None:
        """Seconds until it runs out, negative once it has, by the database's clock; None if nobody ever held it."""

        def once() -> float | None:
            with self._database.read() as connection:
                left = self._database.run(connection, "lease_left", lease=name).scalar()
            return None if left is None else left / 1e6

        return self._database.retrying(once)

    def hold_lease(self, name: str, holder: str, seconds: float) -> bool:
        """Whether `holder` has this lease now, for so long. It spares double work; nothing is unsafe without it."""

        def once() -> bool:
            with self._database.write(durable=False) as connection:
                held = self._database.run(
                    connection, "hold_lease", lease=name, holder=holder, duration=int(seconds * 1e6)
                )
                return held.rowcount == 1

        return self._database.retrying(once)
