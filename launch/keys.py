"""`headway keys`: what the commands do, on the database directly."""

import contextlib
import sys
from collections.abc import Iterator, Sequence

from headway.clock import rfc3339
from headway.errors import SettingsError, StorageUnavailable
from headway.keys import Key, checked_scopes, checked_tenant, new_token
from storage.engine import Database
from storage.keys import Keys
from storage.migrate import schema_current


def create(database_url: str, tenant: str, scopes: Sequence[str], name: str) -> str:
    """The new key; what belongs to it is said on stderr. Raises SettingsError, StorageUnavailable."""
    token, tenant, wanted = new_token(), checked_tenant(tenant), checked_scopes(scopes)
    with _keys(database_url) as keys:
        key = keys.add(token, tenant_id=tenant, scopes=wanted, name=name)
    print(
        f"key {key.id} of tenant {tenant}, for {', '.join(wanted)}; it works within 5 seconds and is not shown again:",
        file=sys.stderr,
    )
    return token


_HEADINGS = ("ID", "BEGINS", "TENANT", "SCOPES", "CREATED", "REVOKED", "NAME")


def lines(database_url: str) -> list[str]:
    """A table of all keys, for people. Raises SettingsError, StorageUnavailable."""
    with _keys(database_url) as keys:
        rows = [_HEADINGS, *map(_row, keys.all())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _row(key: Key) -> tuple[str, ...]:
    revoked = "-" if key.revoked_at is None else rfc3339(key.revoked_at)
    name = key.name if key.name.isprintable() else ascii(key.name)
    return key.id, key.prefix, key.tenant_id, ",".join(key.scopes), rfc3339(key.created_at), revoked, name


def revoke(database_url: str, id_: str) -> None:
    """Raises SettingsError where there is no such key; StorageUnavailable."""
    with _keys(database_url) as keys:
        if not keys.revoke(id_):
            raise SettingsError(f"there is no key {id_[:80]!r}; `headway keys list` shows them")


@contextlib.contextmanager
def _keys(database_url: str) -> Iterator[Keys]:
    with contextlib.closing(Database.open(database_url)) as database:
        if not schema_current(database):
            raise StorageUnavailable("the database has not the schema of this version: run `headway migrate` first")
        yield Keys(database)
