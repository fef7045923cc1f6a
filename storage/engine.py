"""Connections, transactions and what their failures mean.

Two rules: nobody writes to SQLite without a turn, and no error of a driver leaves this package except as
`StorageUnavailable` or as a bug.

A *durable* transaction is on disk when `write` ends. The other kind may be forgotten if the machine crashes, whole
transactions only, latest first; claims are made with it, because a claim that is lost is only made again.
"""

import contextlib
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import sqlalchemy
from sqlalchemy import URL, Connection, CursorResult, Engine, event

from headway import failpoints
from headway.clock import now_us
from headway.errors import SettingsError, StorageUnavailable
from storage import direct, faults
from storage.direct import Direct
from storage.faults import Fault, fault
from storage.statements import Dialect, statements
from storage.turnstile import Turnstile

T = TypeVar("T")

_OLDEST_SQLITE = (3, 51, 3)
_RETRIES = 5


class Database:
    """One for a process, shared by its threads."""

    def __init__(
        self, dialect: Dialect, *, durable: Engine, relaxed: Engine, reading: Engine, turnstile: Turnstile | None
    ) -> None:
        self.dialect: Dialect = dialect
        self._durable = durable
        self._relaxed = relaxed
        self._reading = reading
        self._turnstile = turnstile
        if failpoints.ARMED:
            for engine in (durable, relaxed, reading):
                event.listen(engine, "before_cursor_execute", lambda *_: failpoints.hit("sql.execute", faults.refused))

    @classmethod
    def open(cls, url: str) -> "Database":
        """Connects to nothing yet but SQLite's file.

        Raises SettingsError for a URL that makes no sense, StorageUnavailable if the file cannot be opened.
        """
        try:
            parsed = sqlalchemy.make_url(url)
        except sqlalchemy.exc.ArgumentError:
            raise SettingsError("the database URL should be sqlite:///PATH or postgresql://HOST/DATABASE") from None
        match parsed.get_backend_name():
            case "sqlite":
                return _open_sqlite(parsed)
            case "postgresql":
                return _open_postgresql(parsed)
            case other:
                raise SettingsError(f"no database of the kind {other!r}; it should be sqlite:/// or postgresql://")

    @contextlib.contextmanager
    def write(self, *, durable: bool = True) -> Iterator[Connection]:
        """One transaction, committed when the block ends. On SQLite it is the only one in that time."""
        engine = self._durable if durable else self._relaxed
        with engine.connect() as connection, self._turn(), connection.begin():
            yield connection
        failpoints.hit("sql.committed", faults.lost)

    def direct(self, *, durable: bool = True) -> contextlib.AbstractContextManager[Direct]:
        """The same on SQLite alone, for transactions that every micro-batch makes."""
        return direct.transaction(self._durable if durable else self._relaxed, self._turn())

    @contextlib.contextmanager
    def write_once(self, *, durable: bool = True) -> Iterator[Connection]:
        """The same for a single statement, which PostgreSQL then needs no BEGIN and COMMIT for: one round trip."""
        if self.dialect == "sqlite":
            with self.write(durable=durable) as connection:
                yield connection
            return
        engine = self._durable if durable else self._relaxed
        with engine.connect() as connection:
            yield connection.execution_options(isolation_level="AUTOCOMMIT")
        failpoints.hit("sql.committed", faults.lost)

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """Each statement sees all that was committed before it."""
        with self._reading.connect() as connection:
            yield connection

    def answers(self) -> None:
        """Raises whatever the driver does, if a transaction is not to be had, or no turn of SQLite's. May hang."""
        with self.write(durable=False) as connection:
            connection.exec_driver_sql("SELECT 1")

    def run(self, connection: Connection, name: str, **parameters: Any) -> CursorResult[*tuple[Any, ...]]:
        """Executes a statement of `storage/sql` by its name."""
        return connection.exec_driver_sql(statements(self.dialect)[name], {"now": now_us(), **parameters})

    def rows(self, connection: Connection, name: str, **parameters: Any) -> Sequence[Sequence[Any]]:
        """The rows of a statement that on SQLite answers them all as one JSON array, bytes in hexadecimal."""
        result = self.run(connection, name, **parameters)
        if self.dialect == "sqlite":
            rows: list[list[Any]] = msgspec.json.decode(result.scalar_one())
            return rows
        return result.all()

    def retrying(self, transaction: Callable[[], T]) -> T:
        """Runs it again after a deadlock, a busy file or, once, a broken connection.

        The transaction must bear being run after a COMMIT whose answer was lost. Raises StorageUnavailable.
        """
        tries = 0
        lost = False
        while True:
            try:
                return transaction()
            except sqlalchemy.exc.SQLAlchemyError as error:
                kind = fault(error)
                if kind is Fault.RETRY and tries < _RETRIES:
                    tries += 1
                    time.sleep(random.uniform(0, 0.005 * 2**tries))
                elif kind is Fault.LOST and not lost:
                    lost = True
                    self._disconnect()  # what broke one connection has broken its siblings
                elif kind in (Fault.RETRY, Fault.LOST, Fault.AWAY):
                    raise StorageUnavailable(reason(error)) from error
                else:
                    raise

    def close(self) -> None:
        """Closes all connections. The last one of SQLite's writes the log back into the file, so it takes a turn."""
        with self._turn():
            self._disconnect()
        if self._turnstile is not None:
            self._turnstile.close()

    def _disconnect(self) -> None:
        """Closes the idle connections; those in use are closed when they are given back."""
        for engine in (self._durable, self._relaxed, self._reading):
            engine.dispose()

    def _turn(self) -> contextlib.AbstractContextManager[None]:
        return self._turnstile.passed() if self._turnstile is not None else contextlib.nullcontext()


def embedded_url(data: Path) -> str:
    """The SQLite database of `headway up --data`."""
    return URL.create("sqlite", database=str(data.resolve() / "headway.db")).render_as_string()


def reason(error: Exception) -> str:
    """The driver's own words, without the statement and its values."""
    cause = error.orig if isinstance(error, sqlalchemy.exc.DBAPIError) else error
    return " ".join(str(cause).split())[:500]


# SQLite


def _open_sqlite(url: URL) -> Database:
    if not url.database or url.database == ":memory:":
        raise SettingsError("the SQLite database must be a file: sqlite:///PATH")
    module = sqlite_module()
    path = Path(url.database).absolute()
    turnstile = Turnstile(str(path))
    database = Database(
        "sqlite",
        durable=_sqlite_engine(url, module, synchronous="FULL", writes=True),
        relaxed=_sqlite_engine(url, module, synchronous="NORMAL", writes=True),
        reading=_sqlite_engine(url, module, synchronous="NORMAL", writes=False),
        turnstile=turnstile,
    )

    def start_log() -> None:
        # Only one connection at a time may switch a new file to the write-ahead log; the others fail at once.
        with turnstile.passed(), database.read() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        database.retrying(start_log)
    except OSError as error:
        raise StorageUnavailable(f"cannot open {path}: {error.strerror}") from error
    return database


def sqlite_module() -> Any:
    """The driver. Raises SettingsError where its SQLite is too old to be trusted."""
    try:
        from pysqlite3 import dbapi2 as module  # newer than what Python was built with
    except ImportError:
        import sqlite3 as module
    if module.sqlite_version_info < _OLDEST_SQLITE:
        wanted = ".".join(map(str, _OLDEST_SQLITE))
        raise SettingsError(
            f"SQLite {module.sqlite_version} can lose committed transactions when several processes share a file; "
            f"install pysqlite3, or a Python with SQLite {wanted} or newer, or use PostgreSQL"
        )
    return module


def _sqlite_engine(url: URL, module: Any, *, synchronous: str, writes: bool) -> Engine:
    engine = sqlalchemy.create_engine(
        url.set(drivername="sqlite+pysqlite"),
        module=module,
        pool_size=4,
        max_overflow=12,
        pool_timeout=30,
        connect_args={"isolation_level": None, "cached_statements": 256, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA busy_timeout = 1000")  # for foreign programs; ours take turns
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute("PRAGMA journal_size_limit = 67108864")
        connection.execute("PRAGMA cache_size = -16000")

    if writes:

        @event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:
            # A deferred transaction fails at once when it turns from reading to writing, whatever the timeout.
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


# PostgreSQL


def _open_postgresql(url: URL) -> Database:
    if url.drivername not in ("postgresql", "postgresql+psycopg"):
        raise SettingsError(f"{url.drivername}:// is not supported; write postgresql://")
    return Database(
        "postgresql",
        durable=_postgresql_engine(url, {"synchronous_commit": "on"}),
        relaxed=_postgresql_engine(url, {"synchronous_commit": "off"}),
        reading=_postgresql_engine(
            url, {"default_transaction_read_only": "on"}, execution_options={"isolation_level": "AUTOCOMMIT"}
        ),
        turnstile=None,
    )


def _postgresql_engine(url: URL, settings: dict[str, str], **options: Any) -> Engine:
    # What the operator put into the URL comes last and wins.
    asked = url.query.get("options", "")
    all_settings = {
        "statement_timeout": "5000",
        "lock_timeout": "3000",
        "idle_in_transaction_session_timeout": "5000",
        "jit": "off",
        # Every statement here goes by keys. A plan made while a table was empty is kept while it fills, and must not be
        # a scan of all of it; nor of all that is queued, to be sorted for the first few.
        "enable_seqscan": "off",
        "enable_bitmapscan": "off",
        "enable_hashjoin": "off",
        "enable_mergejoin": "off",
        "enable_sort": "off",
        **settings,
    }
    return sqlalchemy.create_engine(
        url.set(drivername="postgresql+psycopg").difference_update_query(["options"]),
        pool_size=4,
        max_overflow=8,
        pool_timeout=5,
        use_native_hstore=False,
        connect_args={
            "connect_timeout": 5,
            "tcp_user_timeout": 10_000,
            "application_name": "headway",
            "options": " ".join([*(f"-c {key}={value}" for key, value in all_settings.items()), str(asked)]),
        },
        **options,
    )
