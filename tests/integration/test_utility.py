"""The utility worker as a process."""

import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from headway.testing import new_prediction
from headway.webhooks import Events
from storage.engine import Database
from storage.predictions import Predictions
from tests.receiver import Receiver


@pytest.mark.parametrize("broken", ["deliveries", "leases"])
def test_neither_duty_goes_on_without_the_other(
    postgres_url: str, fresh_redis_url: str, tmp_path: Path, broken: str
) -> None:
    """One that had lost its deliverer would look alive, and send no webhook ever again."""
    column = {"deliveries": "due_at", "leases": "until"}[broken]
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"ALTER TABLE {broken} ALTER COLUMN {column} TYPE text")
    assert "operator does not exist" in ended_with(postgres_url, fresh_redis_url, tmp_path)


def test_results_that_cannot_be_written_end_it(postgres_url: str, fresh_redis_url: str, tmp_path: Path) -> None:
    """Or it would send the same webhooks again and again."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("ALTER TABLE deliveries ADD CONSTRAINT nothing_new CHECK (log = '[]')")
    receiver = Receiver()
    database = Database.open(postgres_url)
    try:
        predictions = Predictions(database)
        row = new_prediction(webhook=receiver.url, webhook_events=Events.COMPLETED)
        predictions.insert([row])
        predictions.cancel(row.id, row.tenant_id)
        assert "nothing_new" in ended_with(postgres_url, fresh_redis_url, tmp_path)
        assert len(receiver.got) == 1
    finally:
        database.close()
        receiver.close()


def ended_with(database_url: str, redis_url: str, folder: Path) -> str:
    """The last words of a utility worker that does not last."""
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HEADWAY_")},
        "HEADWAY_REDIS_URL": redis_url,
        "HEADWAY_DATABASE_URL": database_url,
        "HEADWAY_WEBHOOK_ALLOW": "127.0.0.0/8",
    }
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-m", "launch", "utility"], env=environ, stderr=log)
    try:
        assert process.wait(30) == 1
    finally:
        process.kill()
        process.wait()
    return (folder / "log").read_text()
