"""`headway keys`: what the commands do, on the database directly."""

import contextlib
import sys
from collections.abc import Iterator, Sequence

from headway.clock import rfc3339
from headway.errors import SettingsError, StorageUnavailable
from headway.keys import Key, checked_rate, checked_scopes, checked_tenant, new_token
from headway.tenants import checked_weight
from storage.engine import Database
from storage.keys import Keys
from storage.migrate import schema_current
from storage.tenants import Tenants


def create(
    database_url: str,
    tenant: str,
    scopes: Sequence[str],
    name: str,
    *,
    rate: float | None = None,
    weight: float | None = None,
) -> str:
    """The new key; what belongs to it is said on stderr. Raises SettingsError, StorageUnavailable."""
    token, tenant, wanted = new_token(), checked_tenant(tenant), checked_scopes(scopes)
    rate = None if rate is None else checked_rate(rate)
    weight = None if weight is None else checked_weight(weight)
    with _migrated(database_url) as database:
        if weight is not None:
            Tenants(database).weigh(tenant, weight)
        key = Keys(database).add(token, tenant_id=tenant, scopes=wanted, name=name, rate=rate)
    print(
        f"key {key.id} of tenant {tenant}, for {', '.join(wanted)}; it works within 5 seconds and is not shown again:",
        file=sys.stderr,
    )
    return token


_HEADINGS = ("ID", "BEGINS", "TENANT", "WEIGHT", "SCOPES", "RATE", "CREATED", "REVOKED", "NAME")


def lines(database_url: str) -> list[str]:
    """A table of all keys, for people. Raises SettingsError, StorageUnavailable."""
    with _migrated(database_url) as database:
        rows = [_HEADINGS, *map(_row, Keys(database).all())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _row(key: Key) -> tuple[str, ...]:
    revoked = "-" if key.revoked_at is None else rfc3339(key.revoked_at)
    name = key.name if key.name.isprintable() else ascii(key.name)
    rate = "-" if key.rate is None else f"{key.rate:g}/s"
    scopes, created = ",".join(key.scopes), rfc3339(key.created_at)
    return key.id, key.prefix, key.tenant_id, f"{key.weight:g}", scopes, rate, created, revoked, name


def revoke(database_url: str, id_: str) -> None:
    """Raises SettingsError where there is no such key; StorageUnavailable."""
    with _migrated(database_url) as database:
        if not Keys(database).revoke(id_):
            raise SettingsError(f"there is no key {id_[:80]!r}; `headway keys list` shows them")


@contextlib.contextmanager
def _migrated(database_url: str) -> Iterator[Database]:
    with contextlib.closing(Database.open(database_url)) as database:
        if not schema_current(database):
            raise StorageUnavailable("the database has not the schema of this version: run `headway migrate` first")
        yield database
