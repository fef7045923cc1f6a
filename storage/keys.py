"""API keys in SQL. A row is added and marked as revoked, never deleted or changed otherwise."""

from collections.abc import Sequence
from typing import cast

from sqlalchemy import Connection

from headway.clock import new_id
from headway.keys import PREFIX_LENGTH, Key, Scope, digest_of
from storage.engine import Database


class Keys:
    """Every verb raises StorageUnavailable when SQL is away, or its schema is older than keys."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, token: str, *, tenant_id: str, scopes: Sequence[Scope], name: str) -> Key:
        """The row of this key. One that is there already stays as it is, revoked if it was revoked."""
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
                )
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
        return [
            Key(
                id=id_,
                name=name,
                tenant_id=tenant_id,
                scopes=cast(tuple[Scope, ...], tuple(scopes.split())),
                prefix=prefix,
                digest=digest,
                created_at=created_at,
                revoked_at=revoked_at,
            )
            for id_, name, tenant_id, scopes, prefix, digest, created_at, revoked_at in self._database.run(
                connection, "all_keys"
            )
        ]
