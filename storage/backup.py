"""A copy of a SQLite database in use. PostgreSQL has its own tools for that, and is refused here."""

import contextlib
import os
from pathlib import Path

from headway.errors import SettingsError, StorageUnavailable
from storage.engine import Database, reason, sqlite_module


def backup(url: str, target: Path) -> None:
    """Writes one consistent state of the database to the new file `target`, while others read and write.

    Raises SettingsError where `target` exists or cannot be written, and for PostgreSQL; StorageUnavailable.
    """
    database = Database.open(url)
    try:
        if database.dialect != "sqlite":
            raise SettingsError("this backs up SQLite; for PostgreSQL use pg_dump or its continuous archiving")
        partial = target.with_name(target.name + ".partial")
        try:
            if target.exists():
                raise SettingsError(f"{target} exists already")
            partial.unlink(missing_ok=True)
            database.retrying(lambda: _copy(database, partial))
            os.link(partial, target)  # unlike a rename it never replaces a file that has come meanwhile
        except OSError as error:
            raise SettingsError(f"cannot write {target}: {error.strerror}") from error
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
    finally:
        database.close()


def _copy(database: Database, target: Path) -> None:
    target.touch(mode=0o600)  # inputs and outputs are nobody else's
    with database.read() as connection:
        source = connection.connection.driver_connection
        assert source is not None
        module = sqlite_module()
        with contextlib.closing(module.connect(target)) as copy:
            try:
                # In one step, under one snapshot: in smaller ones every foreign write would start it anew.
                source.backup(copy, pages=-1)
                copy.execute("PRAGMA journal_mode = DELETE")  # one file, with nothing beside it
            except module.Error as error:
                raise StorageUnavailable(reason(error)) from error
    with target.open("rb") as written:
        os.fsync(written.fileno())
