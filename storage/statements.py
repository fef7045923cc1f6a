"""The SQL of the store, read from the files in `storage/sql`.

A file is a list of statements, each under a line `-- name`, with a plain sentence or two about it. Parameters are
written `:name` in all of them; `:now` is the database's clock in microseconds, which for SQLite is the host's. What
several statements say in the same words has a name of its own, and stands as `{name}` in them.
"""

import functools
import re
from collections.abc import Sequence
from importlib import resources
from typing import Any, Literal

Dialect = Literal["sqlite", "postgresql"]

_HEADING = re.compile(r"^-- (\w+)$", re.MULTILINE)
_COMMENT = re.compile(r"^\s*--.*\n", re.MULTILINE)
_SHARED = re.compile(r"{(\w+)}")
_PARAMETER = re.compile(r"(?<![:\w]):(\w+)(::bytea\[\])?")
_POSTGRESQL_NOW = "(extract(epoch FROM statement_timestamp()) * 1000000)::bigint"


@functools.cache
def statements(dialect: Dialect) -> dict[str, str]:
    """Name → SQL in the parameter style of the dialect's driver."""
    found: dict[str, str] = {}
    for file in ("common.sql", f"{dialect}.sql"):
        text = resources.files("storage").joinpath("sql", file).read_text(encoding="utf-8")
        _, *parts = _HEADING.split(text)
        for name, body in zip(parts[::2], parts[1::2], strict=True):
            sql = _COMMENT.sub("", body + "\n").strip().removesuffix(";")
            found[name] = _for_psycopg(sql) if dialect == "postgresql" else sql

    def complete(sql: str) -> str:
        return _SHARED.sub(lambda shared: complete(found[shared[1]]), sql)

    return {name: complete(sql) for name, sql in found.items()}


def _for_psycopg(sql: str) -> str:
    def parameter(match: re.Match[str]) -> str:
        name, binary = match.groups()
        # In binary: psycopg spells each byte of a text array in Python, 40 times slower.
        return f"%({name})b{binary}" if binary else f"%({name})s"

    return _PARAMETER.sub(parameter, sql.replace("%", "%%").replace(":now", _POSTGRESQL_NOW))


#: Rows in one INSERT or UPDATE of SQLite.
MOST_ROWS = 64


@functools.cache
def with_rows(name: str, rows: int) -> str:
    """A statement of SQLite's whose `VALUES (?, …)` is repeated for so many rows.

    One statement for many rows, and not `executemany`: the driver gives up the interpreter's lock at every step, and
    under load it takes milliseconds to come back while the write lock is held.
    """
    return _repeated(name, rows, ())


def filled(name: str, rows: Sequence[Sequence[Any]]) -> tuple[str, tuple[Any, ...]]:
    """`with_rows` and its parameters, for the rows given.

    The driver looks for an adapter for each NULL and each `bytes` that it binds, which takes longer than storing them.
    So a column that is NULL in all rows is written as such, and bytes are bound as `bytearray`.
    """
    empty = tuple(column.count(None) == len(rows) for column in zip(*rows, strict=True))
    values = [
        bytearray(value) if type(value) is bytes else value
        for row in rows
        for value, left_out in zip(row, empty, strict=True)
        if not left_out
    ]
    return _repeated(name, len(rows), empty), tuple(values)


@functools.lru_cache(maxsize=512)
def _repeated(name: str, rows: int, empty: tuple[bool, ...]) -> str:
    before, row, after = re.split(r"(?<=VALUES )(\([?, ]+\))", statements("sqlite")[name])
    if empty:
        row = f"({', '.join('NULL' if each else '?' for each in empty)})"
    return before + ", ".join([row] * rows) + after


#: Up to so many, a part may have any number of rows; beyond that, a multiple of it.
_FEW_ROWS = 8


def parts(count: int) -> list[slice]:
    """Cuts so many rows into two parts for each MOST_ROWS at most, of few distinct sizes: each is a statement that has
    to be prepared once."""
    cuts, start = [], 0
    while start < count:
        rows = min(MOST_ROWS, count - start)
        if rows > _FEW_ROWS:
            rows -= rows % _FEW_ROWS
        cuts.append(slice(start, start + rows))
        start += rows
    return cuts
