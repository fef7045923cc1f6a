"""Claims are not flushed one by one, and a crash of PostgreSQL may forget the last of them: nobody hears of those."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from headway import broker
from headway.clock import new_id
from headway.states import Status
from headway.testing import new_prediction
from headway.webhooks import Events
from storage.deliveries import Deliveries
from storage.engine import Database
from storage.migrate import upgrade
from storage.predictions import Predictions
from storage.workers import Workers
from tests.conftest import stop_at_once

RECEIVER = "https://receiver.example"
LINES = broker.lines("digits", "1")


@pytest.fixture
def forgetful(second_postgres_server: Any) -> Iterator[Any]:
    """It flushes nothing by itself for ten seconds, so that a crash finds something to forget."""
    server = second_postgres_server
    server.ensure_postgres_running()
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET wal_writer_delay = '10s'")
    crash(server)
    yield server
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute("ALTER SYSTEM RESET wal_writer_delay")
        connection.execute("SELECT pg_reload_conf()")


def crash(server: Any) -> None:
    stop_at_once(server)
    server.ensure_postgres_running()


def test_a_crash_takes_no_claim_back_that_a_receiver_was_told_of(forgetful: Any) -> None:
    name = f"crash_{new_id()}"
    with psycopg.connect(forgetful.get_uri(), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    url = forgetful.get_uri(name)
    upgrade(url)
    database = Database.open(url)
    try:
        predictions, deliveries, workers = Predictions(database), Deliveries(database), Workers(database)
        workers.register("w1", "cpu", "host", 1)
        told, untold = (
            new_prediction(webhook=f"{RECEIVER}/", webhook_events=Events.STARTED | Events.COMPLETED) for _ in range(2)
        )
        predictions.insert([told, untold])

        claims = [new_id(), new_id()]
        predictions.claim(claims[0], "w1", [told.id], "digits", "1")
        (leased,) = deliveries.lease({RECEIVER: 10}, 0.0)  # a deliverer may send it from here on
        predictions.claim(claims[1], "w1", [untold.id], "digits", "1")
        (forgotten,) = deliveries.of(untold.id, "default")
        crash(forgetful)

        rows = predictions.read([told.id, untold.id])
        assert (rows[told.id].status, rows[told.id].claim) == (Status.IN_PROGRESS, claims[0])
        assert [one.id for one in deliveries.of(told.id, "default")] == [leased.id]
        # Without a lease it was forgotten, and nothing is left of what nobody had heard.
        assert (rows[untold.id].status, rows[untold.id].attempt) == (Status.QUEUED, 0)
        assert deliveries.of(untold.id, "default") == []

        predictions.claim(new_id(), "w1", [untold.id], "digits", "1")
        again = {one.subject.id: one for one in deliveries.lease({RECEIVER: 10}, 60)}
        assert again[told.id].id == leased.id
        assert again[told.id].subject == leased.subject
        assert again[untold.id].id == forgotten.id, "the same event has another id"
    finally:
        database.close()
