"""Brings a database to the newest schema.

Several processes may do it at once: the first does it, the others find it done. Alembic is imported where there is
something to do: every process asks what the schema is, and few find it old.
"""

import functools
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy
from sqlalchemy import Connection

from storage.engine import Database

if TYPE_CHECKING:
    import alembic.config

_LOCK = 4_846_297_119  # any number that nobody else on the server locks
_MIGRATIONS = Path(__file__).parent / "migrations"


def upgrade(url: str) -> None:
    """All in one transaction, on SQLite too. Raises SettingsError, StorageUnavailable."""
    database = Database.open(url)
    try:
        if not schema_current(database):
            database.retrying(lambda: _upgrade(database))
    finally:
        database.close()


def _upgrade(database: Database) -> None:
    import alembic.command

    with database.write() as connection:
        if database.dialect == "postgresql":
            for setting in ("statement_timeout", "lock_timeout"):
                connection.exec_driver_sql(f"SET LOCAL {setting} = 0")
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%(lock)s)", {"lock": _LOCK})
        config = _config()
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, "head")


def schema_current(database: Database) -> bool:
    """Whether the tables are those this version of the code was written for. Raises StorageUnavailable."""

    def read() -> bool:
        with database.read() as connection:
            return revision(connection) == head()

    return database.retrying(read)


def revision(connection: Connection) -> str | None:
    """What the database stands at; None for an empty one."""
    if not sqlalchemy.inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    return found


@functools.cache
def head() -> str:
    """What this version of the code needs: migrations are files in a row, each called after its revision."""
    return max(file.name.partition("_")[0] for file in (_MIGRATIONS / "versions").glob("[0-9]*.py"))


def _config() -> "alembic.config.Config":
    import alembic.config

    config = alembic.config.Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
