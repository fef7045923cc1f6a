"""Failures of all tenants, for whoever operates the system. The work is bounded however many have failed."""

from typing import NamedTuple

from storage.engine import Database

#: Tenants that are looked at, and the newest failures of each: shadows, which do not count, are among them.
TENANTS_AT_MOST = 200
SCANNED_AT_MOST = 200

#: Characters of a message that are shown.
MESSAGE_AT_MOST = 200

_LAST_ID = "ffffffff-ffff-ffff-ffff-ffffffffffff"


class Failure(NamedTuple):
    """A prediction that failed. Times are microseconds since 1970."""

    id: str
    tenant_id: str
    model: str
    version: str
    attempt: int
    code: str
    message: str  # its beginning
    created_at: int
    completed_at: int
    batch_id: str | None


class Recent(NamedTuple):
    """The last to fail first, and how many failed lately: `SCANNED_AT_MOST` and more is as far as was counted."""

    failures: list[Failure]
    lately: int


class Failures:
    """`recent` raises StorageUnavailable when SQL is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def recent(self, limit: int = 20, *, lately_s: float = 3600.0) -> Recent:
        """Of all tenants, without shadows; among the newest accepted of each tenant."""

        def once() -> Recent:
            with self._database.read() as connection:
                rows = self._database.run(
                    connection,
                    "recent_failures",
                    tenants=TENANTS_AT_MOST,
                    scan=SCANNED_AT_MOST,
                    last=_LAST_ID,
                    characters=MESSAGE_AT_MOST + 1,
                    lately=int(lately_s * 1e6),
                    limit=limit,
                ).all()
            return Recent([_failure(*row[:-1]) for row in rows], int(rows[0][-1]) if rows else 0)

        return self._database.retrying(once)


def _failure(
    id_: str,
    tenant_id: str,
    model: str,
    version: str,
    attempt: int,
    code: str | None,
    message: str | None,
    created_at: int,
    completed_at: int | None,
    batch_id: str | None,
) -> Failure:
    said = message or ""
    shown = said if len(said) <= MESSAGE_AT_MOST else said[: MESSAGE_AT_MOST - 1] + "…"
    ended_at = created_at if completed_at is None else completed_at
    return Failure(id_, tenant_id, model, version, attempt, code or "", shown, created_at, ended_at, batch_id)
