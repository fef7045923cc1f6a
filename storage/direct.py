"""Transactions on SQLite's own connection, for the few that every micro-batch makes.

SQLAlchemy's connection, cursor and result objects cost 0.1 ms a transaction and 0.05 ms a statement, which for a single
row is more than what SQLite does. Here is the same with nothing in between, and errors that mean the same.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import sqlalchemy.exc
from sqlalchemy import Engine

from headway import failpoints
from headway.clock import now_us
from storage import faults
from storage.statements import filled, statements, with_rows


class Direct:
    """One transaction."""

    def __init__(self, connection: Any) -> None:
        """`connection`: the driver's."""
        self._cursor = connection.cursor()

    def run(self, name: str, **parameters: Any) -> int:
        """Executes a statement of `storage/sql` by its name; the rows that it changed."""
        return self._execute(statements("sqlite")[name], {"now": now_us(), **parameters})

    def rows(self, name: str, **parameters: Any) -> list[list[Any]]:
        """The rows of a statement that answers them all as one JSON array."""
        rows: list[list[Any]] = msgspec.json.decode(self.answer(name, **parameters))
        return rows

    def answer(self, name: str, **parameters: Any) -> str:
        """The same, as it was answered."""
        self.run(name, **parameters)
        ((answer,),) = self._cursor.fetchall()
        return str(answer)

    def run_with_rows(self, name: str, rows: int, values: Sequence[Any]) -> int:
        """A statement whose VALUES are repeated for so many rows; the rows that it changed."""
        return self._execute(with_rows(name, rows), values)

    def run_filled(self, name: str, rows: Sequence[Sequence[Any]]) -> int:
        """The same for these rows, as `statements.filled` writes it."""
        return self._execute(*filled(name, rows))

    def all(self, name: str, **parameters: Any) -> list[Sequence[Any]]:
        """The rows of any statement. Each costs a turn of the interpreter's lock: for what is seldom asked."""
        self.run(name, **parameters)
        found: list[Sequence[Any]] = self._cursor.fetchall()
        return found

    def _execute(self, sql: str, parameters: Any) -> int:
        if failpoints.ARMED:
            failpoints.hit("sql.execute", faults.refused)
        changed: int = self._cursor.execute(sql, parameters).rowcount
        return changed


@contextlib.contextmanager
def transaction(engine: Engine, turn: contextlib.AbstractContextManager[None]) -> Iterator[Direct]:
    """One that writes, committed when the block ends. Raises what SQLAlchemy would."""
    driver: Any = engine.dialect.loaded_dbapi
    try:
        pooled = engine.raw_connection()
        try:
            connection = pooled.driver_connection
            assert connection is not None
            with turn:
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield Direct(connection)
                    connection.commit()
                except BaseException:
                    connection.rollback()
                    raise
        finally:
            pooled.close()
    except driver.Error as error:
        raise sqlalchemy.exc.DBAPIError.instance(None, None, error, driver.Error) from error
    failpoints.hit("sql.committed", faults.lost)
