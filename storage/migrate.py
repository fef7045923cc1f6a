"""Brings a database to the newest schema.

Several processes may do it at once: the first does it, the others find it done.
"""

import functools
from pathlib import Path

import alembic.command
import alembic.config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from storage.engine import Database

_LOCK = 4_846_297_119  # any number that nobody else on the server locks


def upgrade(url: str) -> None:
    """All in one transaction, on SQLite too. Raises SettingsError, StorageUnavailable."""
    database = Database.open(url)
    try:
        database.retrying(lambda: _upgrade(database))
    finally:
        database.close()


def _upgrade(database: Database) -> None:
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
    return MigrationContext.configure(connection).get_current_revision()


@functools.cache
def head() -> str | None:
    """What this version of the code needs."""
    return ScriptDirectory.from_config(_config()).get_current_head()


def _config() -> alembic.config.Config:
    config = alembic.config.Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
