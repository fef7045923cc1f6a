"""What all verbs of predictions are made of: the database, and ids and rows as each dialect takes and gives them."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import msgspec
import sqlalchemy

from headway.types import Prediction
from storage.engine import Database
from storage.rows import prediction_of

T = TypeVar("T")

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
#: Rows that a page of a list looks at.
SCANNED_AT_MOST = 10_000
FOREVER = (1 << 63) - 1
FIRST_ID = "00000000-0000-0000-0000-000000000000"
LAST_ID = "ffffffff-ffff-ffff-ffff-ffffffffffff"


class Verbs:
    """Every verb raises StorageUnavailable when SQL is away. An id that is no UUID names no row."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def _read(self, query: Callable[[sqlalchemy.Connection], T]) -> T:
        def once() -> T:
            with self._database.read() as connection:
                return query(connection)

        return self._database.retrying(once)

    def _rows(self, connection: sqlalchemy.Connection, ids: Sequence[str], *, outputs: bool = True) -> list[Prediction]:
        if not ids:
            return []
        return [
            prediction_of(row) for row in self._database.rows(connection, "read", ids=self._ids(ids), outputs=outputs)
        ]

    def _lines(self, lines: Sequence[str]) -> str | list[str]:
        """As the dialect takes them."""
        return as_json(lines) if self._database.dialect == "sqlite" else list(lines)

    def _ids(self, ids: Sequence[str]) -> str:
        """Valid ids as the dialect takes them: a JSON array, or an array literal (psycopg's own way is slow)."""
        return as_json(ids) if self._database.dialect == "sqlite" else "{" + ",".join(ids) + "}"


def as_json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def valid(ids: Iterable[str]) -> list[str]:
    return [id_ for id_ in ids if UUID.fullmatch(id_)]
