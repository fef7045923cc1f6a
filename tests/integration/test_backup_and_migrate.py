"""An operator's two commands on a database in use: a copy of it, and its migration."""

import contextlib
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import alembic.command
import pytest

from headway.clock import new_id
from headway.errors import SettingsError, StorageUnavailable
from headway.states import Status
from headway.testing import new_prediction, wait_until
from headway.types import Outcome
from storage import migrate
from storage.backup import backup
from storage.engine import Database
from storage.predictions import Finished, Predictions
from storage.workers import Workers


class Traffic:
    """Submits, claims and finishes on several threads; what it was told is done, is remembered."""

    def __init__(self, database: Database) -> None:
        self.predictions = Predictions(database)
        Workers(database).register("w1", "cpu", "host", 1)
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
        taken = self.predictions.claim(claim, "w1", ids, "digits", "1")
        outcomes = [Outcome(id=row.id, output=row.body) for row in taken]
        self.ended += self.predictions.finish([Finished(claim=claim, outcomes=outcomes, settled=True)])

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
        assert self.errors == []


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


@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
def test_a_migration_under_load_loses_nothing(store: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    url: str = f"sqlite:///{tmp_path}/h.db" if store == "sqlite" else request.getfixturevalue("empty_postgres_url")
    database = Database.open(url)
    with database.write() as connection:  # an older installation
        config = migrate._config()
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, "0001")
    with Traffic(database).flowing() as traffic:  # of the new version already: it waits for the schema it needs
        command = [sys.executable, "-m", "launch", "migrate"]
        for _ in range(2):
            done = subprocess.run(
                command, env=os.environ | {"HEADWAY_DATABASE_URL": url}, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
        seen = len(traffic.ended)
        wait_until(lambda: len(traffic.ended) > seen + 20, 20, "the traffic to flow on")
    assert migrate.schema_current(database)
    rows = traffic.predictions.read(traffic.ended)
    assert len(rows) == len(traffic.ended)
    assert {row.status for row in rows.values()} == {Status.SUCCEEDED}
    database.close()
