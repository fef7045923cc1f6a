"""Tenants in SQL: the class that names a tenant's lines, and its weight. Rows are added and never deleted."""

from sqlalchemy import Connection

from headway.tenants import CLASSES
from storage.engine import Database


class Tenants:
    """Every verb raises StorageUnavailable when SQL is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def admit(self, tenant_id: str) -> int:
        """The tenant's class, given on first sight and never changed."""

        def once() -> int:
            with self._database.write() as connection:
                return admit(self._database, connection, tenant_id)

        return self._database.retrying(once)

    def weigh(self, tenant_id: str, weight: float) -> None:
        """Its share beside other tenants' from now on; workers heed it within seconds."""

        def once() -> None:
            with self._database.write() as connection:
                admit(self._database, connection, tenant_id)
                self._database.run(connection, "weigh_tenant", tenant_id=tenant_id, weight=weight)

        self._database.retrying(once)

    def classes(self) -> dict[int, float]:
        """Every class that has a tenant, and that of the default one, with its weight: the greatest of its tenants'."""

        def once() -> dict[int, float]:
            with self._database.read() as connection:
                return {0: 1.0} | {row[0]: row[1] for row in self._database.run(connection, "classes")}

        return self._database.retrying(once)


def admit(database: Database, connection: Connection, tenant_id: str) -> int:
    """`Tenants.admit` within a transaction of writing."""
    database.run(connection, "admit_tenant", tenant_id=tenant_id, classes=CLASSES)
    return int(database.run(connection, "class_of", tenant_id=tenant_id).scalar_one())
