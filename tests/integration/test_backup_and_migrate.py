"""An operator's two commands on a database in use: a copy of it, and its migration."""

import contextlib
import json
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import alembic.command
import psycopg
import pytest

from headway.clock import new_id
from headway.errors import SettingsError, StorageUnavailable
from headway.manifest import Manifest
from headway.states import Status
from headway.testing import new_prediction, wait_until
from headway.types import Outcome
from headway.versions import Found
from storage import migrate
from storage.backup import backup
from storage.engine import Database
from storage.models import Models
from storage.predictions import Predictions
from storage.running import Finished
from storage.workers import Workers


class Traffic:
    """Submits, claims and finishes on several threads; what it was told is done, is remembered."""

    def __init__(self, database: Database, worker_id: str = "w1") -> None:
        self.predictions = Predictions(database)
        self.worker_id = worker_id
        self._workers, self._models = Workers(database), Models(database)
        self._workers.register(worker_id, "cpu", "host", 1)
        self.ended: list[str] = []  # committed, in the order they were seen
        self.away = 0
        self.errors: list[BaseException] = []
        self._enough = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(3)]

    def _run(self) -> None:
        try:
            while not self._enough.is_set():
                rows = [new_prediction() for _ in range(5)]
                try:
                    self._carry([row.id for row in rows], rows)
                except StorageUnavailable:
                    self.away += 1
        except BaseException as error:  # for the test to see
            self.errors.append(error)

    def _carry(self, ids: list[str], rows: list[Any]) -> None:
        self.predictions.insert(rows)
        claim = new_id()
        taken = self.predictions.claim(claim, self.worker_id, ids, "digits", "1")
        outcomes = [Outcome(id=row.id, output=row.body) for row in taken]
        self.ended += self.predictions.finish([Finished(claim=claim, outcomes=outcomes, settled=True)])

    def tend(self) -> None:
        """What a worker and a janitor do besides, once."""
        self.register()
        self._models.place(self.worker_id, "cpu", "digits", "1", "ready", memory_bytes=1)
        assert [(one.model, one.state) for one in self._models.all()] == [("digits", "ready")]
        assert self._workers.beat(self.worker_id)
        self.bury()
        self.predictions.expire()
        self.predictions.purge(1, after=None, limit=100)

    def register(self) -> None:
        found = Found(
            model="digits", version="1", path=Path("/m"), manifest=Manifest(), sha256="whole", file_sha256="file"
        )
        assert self._models.register(found, self.worker_id) is None

    def bury(self) -> None:
        self._workers.forget_dead()

    @contextlib.contextmanager
    def flowing(self) -> Iterator["Traffic"]:
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._enough.set()
            for thread in self._threads:
                thread.join()
        if self.errors:
            raise self.errors[0]


def test_a_backup_under_load_is_one_consistent_state(sqlite_url: str, tmp_path: Path) -> None:
    database = Database.open(sqlite_url)
    target = tmp_path / "copy.db"
    with Traffic(database).flowing() as traffic:
        wait_until(lambda: len(traffic.ended) > 20, 20, "the traffic to flow")
        before = list(traffic.ended)
        environ = os.environ | {"HEADWAY_DATABASE_URL": sqlite_url}
        done = subprocess.run(
            [sys.executable, "-m", "launch", "backup", str(target)], env=environ, capture_output=True, text=True
        )
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
        wait_until(lambda: len(traffic.ended) > len(before) + 20, 20, "the traffic to flow on")
    database.close()

    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("copy")] == ["copy.db"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    copy = Database.open(f"sqlite:///{target}")
    with copy.read() as connection:
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"
        # Each was inserted with its input in one transaction.
        counts = [
            connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one()
            for table in ("predictions", "inputs")
        ]
    assert counts[0] == counts[1]
    rows = Predictions(copy).read(before)
    assert {row.status for row in rows.values()} == {Status.SUCCEEDED}
    assert len(rows) == len(before)
    assert migrate.schema_current(copy)
    copy.close()


def test_a_backup_replaces_nothing_and_leaves_nothing_half(sqlite_url: str, tmp_path: Path) -> None:
    target = tmp_path / "copy.db"
    target.write_text("mine")
    with pytest.raises(SettingsError, match="exists already"):
        backup(sqlite_url, target)
    assert target.read_text() == "mine"
    with pytest.raises(SettingsError, match="cannot write"):
        backup(sqlite_url, tmp_path / "nowhere" / "copy.db")
    assert list(tmp_path.glob("*.partial")) == []


def test_a_backup_of_postgresql_is_refused_with_the_way_to_do_it(postgres_url: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="pg_dump"):
        backup(postgres_url, tmp_path / "copy")


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    url: str = (
        f"sqlite:///{tmp_path}/h.db" if request.param == "sqlite" else request.getfixturevalue("empty_postgres_url")
    )
    return url


def test_a_migration_under_load_loses_nothing(empty_url: str) -> None:
    url = empty_url
    database = Database.open(url)
    with database.write() as connection:  # an older installation
        config = migrate._config()
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, "0001")
    with Traffic(database).flowing() as traffic:  # of the new version already: it waits for the schema it needs
        command = [sys.executable, "-m", "launch", "migrate"]
        done = subprocess.run(command, env=os.environ | {"HEADWAY_DATABASE_URL": url}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        migrate.upgrade(url)
        seen = len(traffic.ended)
        wait_until(lambda: len(traffic.ended) > seen + 20, 20, "the traffic to flow on")
    assert migrate.schema_current(database)
    rows = traffic.predictions.read(traffic.ended)
    assert len(rows) == len(traffic.ended)
    assert {row.status for row in rows.values()} == {Status.SUCCEEDED}
    database.close()


#: The release before: its SQL, and its verbs where they were others, in a process of its own. It tends at every line of
#: its stdin, ends with it, and says what it has done.
FORMER = """
import json, sys
from pathlib import Path
import storage.statements

class Files:
    def joinpath(self, *parts):
        return Path(sys.argv[2], *parts[1:])

storage.statements.resources = type("", (), {"files": staticmethod(lambda package: Files())})
from headway.clock import now_us
from headway.states import Status
from storage.engine import Database
from storage.predictions import Predictions
from storage.statements import with_rows
from storage.verbs import as_json
from tests.integration.test_backup_and_migrate import Traffic

class FormerPredictions(Predictions):
    def _finish_sqlite(self, results, settled):
        values = []
        for claim, one in results:
            values += (one.id, claim, one.status, None, None, one.predict_us, one.batch_size, now_us(), one.output,
                       None, None)
        with database.write() as connection:
            passed = database.rows(connection, "finishing", rows=as_json(
                [dict(id=one.id, claim=claim) for claim, one in results]))
            assert len(passed) == len(results)
            connection.exec_driver_sql(with_rows("finish", len(results)), tuple(values))
            database.run(connection, "settle", claims=as_json(settled))
        return [(id_, claim, Status.SUCCEEDED, revision + 1, attempt, started_at, now_us())
                for id_, claim, _, revision, attempt, started_at in passed]

class Former(Traffic):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.predictions = FormerPredictions(database)

    def register(self):
        self.run("register_version", model="digits", version="1", path="/m", sha256="file", framework=None,
                 manifest="{}", error=None)

    def bury(self):
        self.run("forget_dead")
        self.run("forget_placements")

    def run(self, name, **parameters):
        with database.write() as connection:
            database.run(connection, name, **parameters)

database = Database.open(sys.argv[1])
traffic = Former(database, "former")
with traffic.flowing():
    print("flowing", flush=True)
    while sys.stdin.readline():
        traffic.tend()
        print("tended", flush=True)
print(json.dumps({"ended": traffic.ended, "away": traffic.away}))
database.close()
"""


def test_the_release_before_and_this_one_work_side_by_side_through_a_migration(empty_url: str) -> None:
    database = Database.open(empty_url)
    with database.write() as connection:
        config = migrate._config()
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, "0007")
    former_sql = Path(__file__).parent / "former_sql"
    command = [sys.executable, "-c", FORMER, empty_url, str(former_sql)]
    pipe = subprocess.PIPE
    former = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
    assert former.stdin is not None
    assert former.stdout is not None

    def tend() -> None:
        former.stdin.write("\n")  # type: ignore[union-attr]
        former.stdin.flush()  # type: ignore[union-attr]
        assert former.stdout.readline() == "tended\n"  # type: ignore[union-attr]

    try:
        assert former.stdout.readline() == "flowing\n"
        tend()
        traffic = Traffic(database, "this one")
        with traffic.flowing():  # which is started before it was migrated, by mistake
            assert not migrate.schema_current(database)
            with pytest.raises(StorageUnavailable):
                traffic.tend()
            migrate.upgrade(empty_url)
            seen = len(traffic.ended)
            for _ in range(3):
                traffic.tend()
                tend()
            wait_until(lambda: len(traffic.ended) > seen + 20, 20, "the traffic to flow on")
        said, _ = former.communicate(timeout=30)
    finally:
        former.kill()
        former.wait()
    of_former = json.loads(said)
    assert (former.returncode, of_former["away"]) == (0, 0)
    assert len(of_former["ended"]) > 20
    rows = traffic.predictions.read([*traffic.ended, *of_former["ended"]])
    assert {row.status for row in rows.values()} == {Status.SUCCEEDED}
    assert len(rows) == len(traffic.ended) + len(of_former["ended"])
    (version,) = Models(database).all()
    assert version.sha256 == "whole"  # the former one has not undone it
    assert version.loaded_at is not None
    database.close()


def test_a_long_transaction_holds_up_the_migration_and_nobody_else(empty_postgres_url: str) -> None:
    database = Database.open(empty_postgres_url)
    with database.write() as connection:
        config = migrate._config()
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, "0007")
    longest = 0.0
    with psycopg.connect(empty_postgres_url) as stranger, psycopg.connect(empty_postgres_url) as reader:
        stranger.execute("SELECT count(*) FROM versions")
        with ThreadPoolExecutor(1) as pool:
            migration = pool.submit(migrate.upgrade, empty_postgres_url)
            until = time.monotonic() + 2.5
            while time.monotonic() < until:
                began = time.monotonic()
                reader.execute("SELECT count(*) FROM versions")
                reader.rollback()
                longest = max(longest, time.monotonic() - began)
            assert not migration.done()
            stranger.rollback()
            migration.result(20)
    assert longest < 1.5
    assert migrate.schema_current(database)
    with psycopg.connect(empty_postgres_url) as stranger:
        stranger.execute("SELECT count(*) FROM versions")
        migrate.upgrade(empty_postgres_url, patience_s=0)  # there is nothing to do
    database.close()
