"""Migrations, connections that break, and databases that are away."""

import contextlib
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import alembic.command
import psycopg
import pytest
import sqlalchemy
from alembic.script import ScriptDirectory

from headway.clock import new_id
from headway.errors import SettingsError, StorageUnavailable
from headway.states import Status
from headway.testing import new_prediction
from headway.types import Outcome
from storage import migrate
from storage.engine import Database
from storage.migrate import head, schema_current, upgrade
from storage.predictions import Predictions
from storage.running import Finished
from storage.workers import Workers


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/new folder/headway.db"
    url: str = request.getfixturevalue("empty_postgres_url")
    return url


def migrate_to(database: Database, revision: str) -> None:
    with database.write() as connection:
        config = migrate._config()
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, revision)


@contextlib.contextmanager
def opened(url: str) -> Iterator[Database]:
    database = Database.open(url)
    try:
        yield database
    finally:
        database.close()


def test_an_empty_database_is_migrated_and_once_more_changes_nothing(empty_url: str) -> None:
    with opened(empty_url) as database:
        assert not schema_current(database)
        with pytest.raises(StorageUnavailable):
            Predictions(database).insert([new_prediction()])

    upgrade(empty_url)
    with opened(empty_url) as database:
        assert schema_current(database)
        Predictions(database).insert([new_prediction()])

    upgrade(empty_url)
    with opened(empty_url) as database:
        assert Predictions(database).count_by_status() == {Status.QUEUED: 1}


def test_processes_that_migrate_at_the_same_time_all_succeed(empty_url: str) -> None:
    command = [sys.executable, "-c", "import sys; from storage.migrate import upgrade; upgrade(sys.argv[1])", empty_url]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(3)]
    errors = [process.communicate(timeout=60)[1] for process in processes]

    assert [process.returncode for process in processes] == [0, 0, 0], errors
    with opened(empty_url) as database:
        assert schema_current(database)


def test_a_newer_schema_is_current_for_as_old_code_as_it_says(database: Database) -> None:
    for there, oldest, current in (
        ("9999", "0007", True),
        ("9999", head(), True),
        ("9999", "9998", False),
        ("0007", "0001", False),
    ):
        with database.write() as connection:
            connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{there}'")
            connection.exec_driver_sql(f"UPDATE compatibility SET oldest = '{oldest}'")
        assert schema_current(database) is current


def tables(database: Database) -> dict[str, dict[str, tuple[str, bool]]]:
    """Table → column → (type, whether a row may be written that says nothing of it)."""
    with database.read() as connection:
        inspector = sqlalchemy.inspect(connection)
        return {
            table: {
                column["name"]: (str(column["type"]), column["nullable"] or column["default"] is not None)
                for column in inspector.get_columns(table)
            }
            for table in inspector.get_table_names()
        }


def test_a_migration_takes_nothing_away_that_the_release_before_it_uses(empty_url: str) -> None:
    with opened(empty_url) as database:
        migrate_to(database, "0007")
        before = tables(database)
        script = ScriptDirectory.from_config(migrate._config())
        for step in reversed(list(script.iterate_revisions("head", "0007"))):
            migrate_to(database, step.revision)
            after = tables(database)
            with database.read() as connection:
                serves_the_one_before = migrate.oldest(connection) <= str(step.down_revision)
            assert serves_the_one_before, "what is taken away goes a release after the last code that uses it"
            for table, columns in before.items():
                assert {name: after[table][name] for name in columns} == columns
                assert all(omissible for name, (_, omissible) in after[table].items() if name not in columns)
            before = after


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///:memory:", "mysql://host/db", "postgresql+asyncpg://host/db", "nonsense", ""]
)
def test_urls_that_make_no_sense_are_refused(url: str) -> None:
    with pytest.raises(SettingsError):
        Database.open(url)


def test_an_old_sqlite_is_refused_with_the_way_out(tmp_path: Path) -> None:
    if sqlite3.sqlite_version_info >= (3, 51, 3):
        pytest.skip("this Python has a newer one")
    script = (
        "import sys; sys.modules['pysqlite3'] = None\n"
        "from storage.engine import Database\n"
        f"Database.open('sqlite:///{tmp_path}/x.db')\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert result.returncode != 0
    assert "SettingsError" in result.stderr
    assert "pysqlite3" in result.stderr


def test_sqlite_in_a_place_that_cannot_be_written_is_away() -> None:
    with pytest.raises(StorageUnavailable):
        Database.open("sqlite:////dev/null/headway.db")


def test_durable_transactions_are_fsynced_and_claims_are_not(database: Database) -> None:
    pragma = "PRAGMA synchronous" if database.dialect == "sqlite" else "SHOW synchronous_commit"
    wanted = (2, 1) if database.dialect == "sqlite" else ("on", "off")
    for durable, value in zip((True, False), wanted, strict=True):
        for write in (database.write, database.write_once):
            with write(durable=durable) as connection:
                assert connection.exec_driver_sql(pragma).scalar_one() == value


def test_a_transaction_that_raises_leaves_nothing(store: Any) -> None:
    def fail() -> None:
        with store.database.write() as connection:
            connection.exec_driver_sql("DELETE FROM workers")
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fail()
    assert store.count("workers") == 1


def test_a_file_locked_by_a_foreign_program_is_waited_for(sqlite_url: str) -> None:
    foreign = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None, check_same_thread=False)
    foreign.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.3, foreign.execute, ("ROLLBACK",))
    release.start()
    with opened(sqlite_url) as database:
        assert isinstance(Predictions(database).insert([new_prediction()])[0], int)
    release.join()
    foreign.close()


# PostgreSQL that goes away


def test_a_stopped_postgresql_is_unavailable_and_its_return_is_noticed(second_postgres_server: Any) -> None:
    server = second_postgres_server
    url = server.get_uri()
    upgrade(url)
    with opened(url) as database:
        predictions, workers = Predictions(database), Workers(database)
        workers.register("w1", "cpu", "host", 1)
        rows = [new_prediction() for _ in range(3)]
        predictions.insert(rows[:1])
        claim = new_id()
        assert len(predictions.claim(claim, "w1", [rows[0].id], "digits", "1")) == 1

        postmaster = server.get_postmaster_info().process
        postmaster.send_signal(signal.SIGQUIT)  # as if it crashed
        postmaster.wait(10)
        verbs: list[Callable[[], object]] = [
            lambda: predictions.insert(rows[1:2]),
            lambda: predictions.claim(new_id(), "w1", [rows[0].id], "digits", "1"),
            lambda: predictions.finish([Finished(claim=claim, outcomes=[], settled=True)]),
            lambda: predictions.read([rows[0].id]),
            lambda: workers.beat("w1"),
            lambda: schema_current(database),
        ]
        for verb in verbs:
            with pytest.raises(StorageUnavailable):
                verb()

        server.ensure_postgres_running()
        assert predictions.read([rows[0].id])
        assert isinstance(predictions.insert(rows[2:])[0], int)
        assert workers.beat("w1")


def test_connections_that_broke_meanwhile_are_replaced_unnoticed(postgres_url: str) -> None:
    with opened(postgres_url) as database:
        predictions, workers = Predictions(database), Workers(database)
        workers.register("w1", "cpu", "host", 1)
        rows = [new_prediction() for _ in range(2)]
        predictions.insert(rows)
        predictions.claim(new_id(), "w1", [rows[0].id], "digits", "1")
        predictions.read([rows[0].id])
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

        assert len(predictions.claim(new_id(), "w1", [rows[1].id], "digits", "1")) == 1
        assert len(predictions.read([row.id for row in rows])) == 2
        assert isinstance(predictions.insert([new_prediction()])[0], int)


class Proxy:
    """Stands before PostgreSQL, and cuts the connection once between a statement's success and its answer."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._swallow: bytes | None = None
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def swallow_answer_to(self, statement: bytes) -> None:
        self._swallow = statement

    @property
    def swallowed(self) -> bool:
        return self._swallow is None

    def close(self) -> None:
        for sock in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._upstream)
            self._sockets += [client, server]
            cut = threading.Event()
            threading.Thread(target=self._ask, args=(client, server, cut), daemon=True).start()
            threading.Thread(target=self._answer, args=(client, server, cut), daemon=True).start()

    def _ask(self, client: socket.socket, server: socket.socket, cut: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 20):
                if self._swallow is not None and self._swallow in data:
                    cut.set()
                server.sendall(data)
        server.close()

    def _answer(self, client: socket.socket, server: socket.socket, cut: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 20):
                if cut.is_set():  # the server has answered, so it has committed
                    self._swallow = None
                    client.shutdown(socket.SHUT_RDWR)
                    return
                client.sendall(data)
            client.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy(postgres_server: Any) -> Iterator[Proxy]:
    proxy = Proxy(str(postgres_server.get_postmaster_info().socket_path))
    yield proxy
    proxy.close()


def test_transactions_whose_answer_was_lost_are_read_back(postgres_url: str, proxy: Proxy) -> None:
    name = postgres_url.split("?")[0].rsplit("/", 1)[1]
    with opened(f"postgresql://postgres@127.0.0.1:{proxy.port}/{name}?sslmode=disable") as database:
        predictions = Predictions(database)
        Workers(database).register("w1", "cpu", "host", 1)
        rows = [new_prediction() for _ in range(4)]
        ids = [row.id for row in rows]

        proxy.swallow_answer_to(b"INSERT INTO predictions")
        positions = predictions.insert(rows)
        assert proxy.swallowed
        read = predictions.read(ids)
        assert positions == [read[id_].position for id_ in ids]
        assert predictions.count_by_status() == {Status.QUEUED: 4}

        claim = new_id()
        proxy.swallow_answer_to(b"INSERT INTO claims")
        taken = predictions.claim(claim, "w1", ids, "digits", "1")
        assert proxy.swallowed
        assert [(row.id, row.attempt, row.body) for row in taken] == [(row.id, 1, row.body) for row in rows]

        proxy.swallow_answer_to(b"f.error_code")
        outcomes = [Outcome(id=id_, output=b"1") for id_ in ids]
        ended = predictions.finish([Finished(claim=claim, outcomes=outcomes, settled=True)])
        assert proxy.swallowed
        assert {id_: (one.status, one.revision) for id_, one in ended.items()} == dict.fromkeys(
            ids, (Status.SUCCEEDED, 3)
        )
        assert predictions.count_by_status() == {Status.SUCCEEDED: 4}
