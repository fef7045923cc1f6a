"""Transactions on SQLite's own connection: their errors mean what SQLAlchemy's would, and leave nothing behind."""

from pathlib import Path

import pytest
import sqlalchemy.exc

from headway.clock import new_id
from headway.errors import StorageUnavailable
from storage import migrate
from storage.engine import Database
from storage.faults import Fault, fault


@pytest.fixture
def database(tmp_path: Path) -> Database:
    migrate.upgrade(f"sqlite:///{tmp_path}/headway.db")
    return Database.open(f"sqlite:///{tmp_path}/headway.db")


def _claims(database: Database) -> int:
    with database.read() as connection:
        return int(connection.exec_driver_sql("SELECT count(*) FROM claims").scalar_one())


def _record(database: Database, *claims: str) -> None:
    with database.direct() as direct:
        for claim in claims:
            direct.run("record_claim", claim=claim, worker_id="w", ids="[]")


def test_what_the_database_refuses_undoes_the_transaction_and_is_a_fault_of_the_data(database: Database) -> None:
    first, second = new_id(), new_id()
    _record(database, first)
    with pytest.raises(sqlalchemy.exc.IntegrityError) as refused:
        _record(database, second, first)
    assert fault(refused.value) is Fault.DATA
    assert _claims(database) == 1
    _record(database, second)  # the connection is as good as before
    assert _claims(database) == 2


def test_a_database_without_tables_is_away(tmp_path: Path) -> None:
    database = Database.open(f"sqlite:///{tmp_path}/empty.db")
    with pytest.raises(StorageUnavailable):
        database.retrying(lambda: _record(database, new_id()))


def test_an_error_of_who_writes_undoes_the_transaction_and_stays_what_it_is(database: Database) -> None:
    def write() -> None:
        with database.direct() as direct:
            direct.run("record_claim", claim=new_id(), worker_id="w", ids="[]")
            raise KeyError

    with pytest.raises(KeyError):
        write()
    assert _claims(database) == 0
