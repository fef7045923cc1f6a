"""The SQL of the store, read from the files in `storage/sql`.

A file is a list of statements, each under a line `-- name`, with a plain sentence or two about it. Parameters are
written `:name` in all of them; `:now` is the database's clock in microseconds, which for SQLite is the host's. What
several statements say in the same words has a name of its own, and stands as `{name}` in them.
"""

import functools
import re
from importlib import resources
from typing import Literal

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
    before, row, after = re.split(r"(?<=VALUES )(\([?, ]+\))", statements("sqlite")[name])
    return before + ", ".join([row] * rows) + after


def parts(count: int) -> list[slice]:
    """Cuts so many rows into powers of two, so that few distinct statements are ever prepared."""
    cuts, start = [], 0
    while start < count:
        rows = min(MOST_ROWS, 1 << ((count - start).bit_length() - 1))
        cuts.append(slice(start, start + rows))
        start += rows
    return cuts
