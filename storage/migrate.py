"""Brings a database to the newest schema, while others use it.

Several processes may do it at once: the first does it, the others find it done. The rule: a migration leaves the code
of the release before it running. It only adds (tables, columns that may be empty or have a default, indexes), and says
in the table `compatibility` which is the oldest code that the schema still serves. What is no longer used is taken away
a release later, which raises that.

Alembic is imported where there is something to do: every process asks what the schema is, and few find it old.
"""

import functools
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy
from sqlalchemy import Connection

from headway.errors import StorageUnavailable
from storage.engine import Database

if TYPE_CHECKING:
    import alembic.config

log = logging.getLogger(__name__)

_LOCK = 4_846_297_119  # any number that nobody else on the server locks
_MIGRATIONS = Path(__file__).parent / "migrations"

#: Whoever waits for a table keeps all others waiting behind it, readers too: so it is not waited for long, but often.
_LOCK_WAIT_MS = 500
_PAUSE_S = 0.5


def upgrade(url: str, *, patience_s: float = 120.0) -> None:
    """All in one transaction, on SQLite too. Raises SettingsError, StorageUnavailable.

    `patience_s`: how long it is tried again where a transaction of somebody else has a table.
    """
    database = Database.open(url)
    give_up = time.monotonic() + patience_s
    said = False
    try:
        while not database.retrying(lambda: _upgrade(database)):
            if time.monotonic() >= give_up:
                raise StorageUnavailable(
                    "a table cannot be changed while a long transaction has it: pg_stat_activity shows whose it is"
                )
            if not said:
                log.info("waiting for a transaction that has a table; others are not kept waiting")
            said = True
            time.sleep(_PAUSE_S)
    finally:
        database.close()


def _upgrade(database: Database) -> bool:
    """False: somebody else's transaction was in the way."""
    if schema_current(database):
        return True  # whoever may change no tables can say so, too
    import alembic.command

    try:
        with database.write() as connection:
            if database.dialect == "postgresql":
                connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = {_LOCK_WAIT_MS}")
                connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%(lock)s)", {"lock": _LOCK})
            config = _config()
            config.attributes["connection"] = connection
            alembic.command.upgrade(config, "head")
    except sqlalchemy.exc.DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) == "55P03":
            return False
        raise
    return True


def schema_current(database: Database) -> bool:
    """Whether this version of the code can work with the tables: its own, or newer ones that still serve it.

    Raises StorageUnavailable.
    """

    def read() -> bool:
        with database.read() as connection:
            there, needed = revision(connection), head()
            if there is None or there <= needed:
                return there == needed
            return oldest(connection) <= needed

    return database.retrying(read)


def oldest(connection: Connection) -> str:
    """The head of the oldest code that the schema serves."""
    found: str = connection.exec_driver_sql("SELECT oldest FROM compatibility").scalar_one()
    return found


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
