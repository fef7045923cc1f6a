"""API keys in SQL. A row is added and marked as revoked, never deleted or changed otherwise."""

from collections.abc import Sequence
from typing import cast

from sqlalchemy import Connection

from headway.clock import new_id
from headway.keys import PREFIX_LENGTH, Key, Scope, digest_of
from storage.engine import Database
from storage.tenants import admit


class Keys:
    """Every verb raises StorageUnavailable when SQL is away, or its schema is older than keys."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, token: str, *, tenant_id: str, scopes: Sequence[Scope], name: str, rate: float | None = None) -> Key:
        """The row of this key. One that is there already stays as it is, revoked if it was revoked.

        With a tenant's first key the tenant gets its class.
        """
        id_, digest = new_id(), digest_of(token)

        def once() -> Key:
            with self._database.write() as connection:
                self._database.run(
                    connection,
                    "add_key",
                    id=id_,
                    label=name,
                    tenant_id=tenant_id,
                    scopes=" ".join(scopes),
                    prefix=token[:PREFIX_LENGTH],
                    digest=digest,
                    rate=rate,
                )
                admit(self._database, connection, tenant_id)
                return next(key for key in self._all(connection) if key.digest == digest)

        return self._database.retrying(once)

    def all(self) -> list[Key]:
        """Oldest first, revoked ones too."""

        def once() -> list[Key]:
            with self._database.read() as connection:
                return self._all(connection)

        return self._database.retrying(once)

    def revoke(self, id_: str) -> bool:
        """Whether there is such a key. Revoking again changes nothing."""

        def once() -> bool:
            with self._database.write_once() as connection:
                return self._database.run(connection, "revoke_key", id=id_).rowcount == 1

        return self._database.retrying(once)

    def _all(self, connection: Connection) -> list[Key]:
        return [_key(*row) for row in self._database.run(connection, "all_keys")]


def _key(
    id_: str,
    name: str,
    tenant_id: str,
    scopes: str,
    prefix: str,
    digest: str,
    created_at: int,
    revoked_at: int | None,
    rate: float | None,
    weight: float,
) -> Key:
    return Key(
        id=id_,
        name=name,
        tenant_id=tenant_id,
        scopes=cast(tuple[Scope, ...], tuple(scopes.split())),
        prefix=prefix,
        digest=digest,
        created_at=created_at,
        revoked_at=revoked_at,
        rate=rate,
        weight=weight,
    )
