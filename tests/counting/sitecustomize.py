"""On the PYTHONPATH of Headway's processes it writes down every SQL statement that they send, whoever sends it.

Python imports this at its start. A line a statement goes into the file that COUNTED_STATEMENTS names: the part (api,
worker, utility), a tab, and how the statement begins.
"""

import os
import sys
from collections.abc import Callable
from typing import Any

_PARTS = ("api", "worker", "utility")


def beginning(statement: object) -> str:
    """So much of it as tells it from all others."""
    return " ".join(str(statement)[:1_200].split())[:300]


def listen(sent: Callable[[str], None]) -> None:
    """Has every statement told to `sent`, of connections that are opened from now on. What opens and ends a
    transaction is none."""

    def tell(statement: object) -> None:
        if not str(statement).startswith(("BEGIN", "PRAGMA")):
            sent(beginning(statement))

    try:
        from pysqlite3 import dbapi2 as driver
    except ImportError:
        import sqlite3 as driver
    import psycopg

    class Cursor(driver.Cursor):  # type: ignore[misc]
        def execute(self, statement: str, *args: Any) -> Any:
            tell(statement)
            return super().execute(statement, *args)

        def executemany(self, statement: str, rows: Any) -> Any:
            rows = list(rows)
            for _ in rows:
                tell(statement)
            return super().executemany(statement, rows)

    class Connection(driver.Connection):  # type: ignore[misc]
        def cursor(self, factory: Any = Cursor) -> Any:
            return super().cursor(factory)

    connect = driver.connect
    driver.connect = lambda *args, **options: connect(*args, **{**options, "factory": Connection})

    def telling(method: Any) -> Any:
        def call(self: Any, statement: Any, *args: Any, **options: Any) -> Any:
            tell(statement)
            return method(self, statement, *args, **options)

        return call

    for name in ("execute", "executemany", "copy", "stream"):
        setattr(psycopg.Cursor, name, telling(getattr(psycopg.Cursor, name)))


def _write_down(part: str, file: str) -> None:
    out = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def sent(statement: str) -> None:
        os.write(out, f"{part}\t{statement}\n".encode())

    listen(sent)


_file = os.environ.get("COUNTED_STATEMENTS")
_part = next((word for word in sys.orig_argv if word in _PARTS), None)
if _file and _part and "launch" in sys.orig_argv:
    _write_down(_part, _file)
