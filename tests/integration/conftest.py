"""What the tests of the store share."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from headway import broker
from headway.clock import new_id
from headway.testing import new_prediction
from headway.types import Claimed, Outcome
from storage.engine import Database
from storage.predictions import Predictions
from storage.running import Finished
from storage.workers import Workers


@dataclass(frozen=True)
class Store:
    """A database with one live worker, `w1`."""

    database: Database
    predictions: Predictions
    workers: Workers

    lines = broker.lines("digits", "1")

    def submitted(self, count: int = 1, **fields: object) -> list[str]:
        rows = [new_prediction(**fields) for _ in range(count)]
        positions = self.predictions.insert(rows)
        assert all(isinstance(position, int) for position in positions), positions
        return [row.id for row in rows]

    def claimed(self, ids: Sequence[str], worker_id: str = "w1") -> tuple[str, list[Claimed]]:
        claim = new_id()
        return claim, self.predictions.claim(claim, worker_id, ids, "digits", "1")

    def finished(self, claim: str, ids: Sequence[str], *, settled: bool = True) -> set[str]:
        outcomes = [Outcome(id=id_, output=b"1") for id_ in ids]
        return set(self.predictions.finish([Finished(claim=claim, outcomes=outcomes, settled=settled)]))

    def execute(self, statement: str) -> None:
        with self.database.write() as connection:
            connection.exec_driver_sql(statement)

    def count(self, table: str) -> int:
        with self.database.read() as connection:
            return int(connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one())


@pytest.fixture
def store(database: Database) -> Store:
    workers = Workers(database)
    workers.register("w1", "cpu", "host", 1)
    return Store(database, Predictions(database), workers)
