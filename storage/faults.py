"""What a database error means for whoever asked.

RETRY    another transaction was in the way: the same again, soon
LOST     the connection broke: whether the transaction was committed is unknown
AWAY     the database cannot serve now: `StorageUnavailable`
DATA     the database refuses these very values
OURS     anything else: a bug of ours, raised as it is
"""

import enum
import random

import sqlalchemy.exc

Fault = enum.Enum("Fault", ["RETRY", "LOST", "AWAY", "DATA", "OURS"])

#: PostgreSQL error codes, the longest prefix wins.
_POSTGRESQL = {
    "40001": Fault.RETRY,  # serialization failure
    "40P01": Fault.RETRY,  # deadlock
    "08": Fault.LOST,
    "57P": Fault.LOST,  # shut down by an operator, or starting up
    "25P": Fault.LOST,  # idle in a transaction too long: the server hung up
    "25006": Fault.AWAY,  # read only: a standby, or a disk that ran full
    "42P01": Fault.AWAY,  # no such table: not migrated yet
    "42703": Fault.AWAY,  # no such column: not migrated yet
    "42501": Fault.AWAY,  # not allowed to: a grant is missing
    "53": Fault.AWAY,  # connections, memory or disk used up
    "55P03": Fault.AWAY,  # lock timeout
    "57014": Fault.AWAY,  # statement timeout
    "58": Fault.AWAY,  # input or output error
    "22": Fault.DATA,
    "23": Fault.DATA,
    "54": Fault.DATA,  # over a limit of the program: a key too long for its index, a value over 1 GB
}

#: SQLite's primary result codes.
_SQLITE = {
    5: Fault.RETRY,  # busy
    6: Fault.RETRY,  # locked
    8: Fault.AWAY,  # read only
    10: Fault.AWAY,  # input or output error
    13: Fault.AWAY,  # disk full
    14: Fault.AWAY,  # cannot open
    18: Fault.DATA,  # too big
    19: Fault.DATA,  # constraint
    20: Fault.DATA,  # wrong type
}


def fault(error: Exception) -> Fault:
    """Of an error that came out of a SQLAlchemy call, or of encoding the values for one."""
    if isinstance(error, UnicodeError | OverflowError | sqlalchemy.exc.DataError):
        return Fault.DATA
    if isinstance(error, sqlalchemy.exc.TimeoutError):  # no connection came free in the pool
        return Fault.AWAY
    if not isinstance(error, sqlalchemy.exc.DBAPIError) or error.orig is None:
        return Fault.OURS
    if error.connection_invalidated:
        return Fault.LOST
    return _of_driver(error.orig)


def _of_driver(error: BaseException) -> Fault:
    code = getattr(error, "sqlite_errorcode", None)
    if code is not None:
        if any(words in str(error) for words in ("no such table", "no such column", "has no column named")):
            return Fault.AWAY  # not migrated yet
        return _SQLITE.get(code & 0xFF, Fault.OURS)
    state = getattr(error, "sqlstate", None)
    if state is not None:
        return next((_POSTGRESQL[state[:n]] for n in (5, 3, 2) if state[:n] in _POSTGRESQL), Fault.OURS)
    # psycopg has no code for a connection that could not be made.
    return Fault.AWAY if type(error).__name__ in ("OperationalError", "ConnectionTimeout") else Fault.OURS


class _Injected(Exception):  # noqa: N818
    """A driver's error that a test makes up."""

    def __init__(self, sqlstate: str) -> None:
        super().__init__(f"a test made this fail with {sqlstate}")
        self.sqlstate = sqlstate


def lost() -> Exception:
    """The connection is gone, and nobody knows whether the transaction was committed."""
    return sqlalchemy.exc.OperationalError(None, None, _Injected("08006"), connection_invalidated=True)


def refused() -> Exception:
    """A statement that was in another's way, or took too long."""
    return sqlalchemy.exc.OperationalError(None, None, _Injected(random.choice(("40001", "57014"))))
