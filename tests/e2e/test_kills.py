"""The promise with receivers: whatever is killed under load, each prediction that was accepted ends right, and its
receiver hears of it under one id."""

import itertools
import os
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psycopg
import pytest
from psycopg import sql
from standardwebhooks import Webhook

from headway.clock import new_id
from headway.running import RunningHeadway
from headway.states import Status
from headway.testing import wait_until
from headway.webhooks import new_secret
from storage.engine import Database
from storage.predictions import Predictions
from tests.conftest import stop_at_once
from tests.receiver import Receiver

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the processes in /proc")

SQUARE = """
import time
from headway import Model

class Square(Model):
    def predict(self, inputs):
        time.sleep(0.02)  # so that something is under way whenever it is killed
        return [number * number for number in inputs]
"""

CALLERS = 4
#: Predictions accepted and ends received between two kills.
PROGRESS = 60
#: Callers wait while the ends of so many have not been received: recovery is measured, not how fast a backlog goes.
MOST_OPEN = 200
RECOVERED_WITHIN_S = 30


@dataclass
class Load:
    """Callers who count a prediction as accepted once they have its 202, and try again until they do."""

    url: str
    hook: str
    ends: set[str]  # predictions whose end was heard of
    accepted: dict[str, int] = field(default_factory=dict)  # id → input
    started: set[str] = field(default_factory=set)  # those that asked for `started` as well
    refused: int = 0

    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _enough: threading.Event = field(default_factory=threading.Event)

    def stop(self) -> None:
        self._enough.set()

    def owed(self) -> set[tuple[str, str]]:
        """(prediction, event) of all that the receiver is to hear."""
        return {(id_, "prediction.succeeded") for id_ in self.accepted} | {
            (id_, "prediction.started") for id_ in self.started
        }

    def run(self) -> None:
        with httpx.Client(base_url=self.url, timeout=10) as client:
            while not self._enough.wait(0.02):
                if len(self.accepted) > len(self.ends) + MOST_OPEN:
                    continue
                number = next(self._numbers)
                events = ["started", "completed"] if number % 2 else ["completed"]
                body = {"input": number, "webhook": self.hook, "webhook_events": events}
                while (id_ := self._submitted(client, body)) is None:
                    self.refused += 1
                    if self._enough.wait(0.1):
                        return
                self.accepted[id_] = number
                if number % 2:
                    self.started.add(id_)

    @staticmethod
    def _submitted(client: httpx.Client, body: dict[str, Any]) -> str | None:
        try:
            answer = client.post("/v1/models/square/predictions", json=body)
        except httpx.TransportError:
            return None
        if answer.status_code == 503:
            return None
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])


class Heard:
    """What the receiver got, by prediction and event."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._read = 0
        self.ids: dict[tuple[str, str], set[str]] = defaultdict(set)  # (prediction, event) → webhook-ids
        self.data: dict[str, dict[str, Any]] = {}  # webhook-id → the prediction as it was told
        self.ends: set[str] = set()  # predictions whose end was heard of

    def look(self) -> "Heard":
        got = self._receiver.got[self._read :]
        self._read += len(got)
        for one in got:
            event = one.event
            self.ids[event["data"]["id"], event["type"]].add(one.id)
            assert self.data.setdefault(one.id, event["data"]) == event["data"]
            if event["type"] == "prediction.succeeded":
                self.ends.add(event["data"]["id"])
        return self


@pytest.fixture
def killed_postgres_url(second_postgres_server: Any) -> str:
    """A database of this test's own on a server that it may kill."""
    second_postgres_server.ensure_postgres_running()
    name = f"kills_{new_id()}"
    with psycopg.connect(second_postgres_server.get_uri(), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    url: str = second_postgres_server.get_uri(name)
    return url


@pytest.mark.timeout(180)
@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
def test_whatever_is_killed_every_accepted_prediction_ends_right_and_is_told_under_one_id(
    store: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    secret = new_secret()
    options: list[str] = []
    parts = ["api", "worker", "square@1", "utility", "valkey"]
    if store == "postgresql":
        url = request.getfixturevalue("killed_postgres_url")
        options = ["--database-url", url]
        parts.append("postgresql")
    version = tmp_path / "models" / "square" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(SQUARE)
    environ = {
        "HEADWAY_WEBHOOK_ALLOW": "127.0.0.0/8",
        "HEADWAY_WEBHOOK_SCHEDULE": "0.5,1,2,4,8,16",
        "HEADWAY_WEBHOOK_SECRET": secret,
    }
    receiver = Receiver()
    try:
        with (
            RunningHeadway(tmp_path, options=options, environ=environ) as headway,
            ThreadPoolExecutor(CALLERS) as callers,
        ):
            heard = Heard(receiver)
            load = Load(headway.data_url, receiver.url, heard.ends)
            running = [callers.submit(load.run) for _ in range(CALLERS)]

            def progress(what: str) -> None:
                accepted, ends = len(load.accepted), len(heard.look().ends)

                def enough() -> bool:
                    for caller in running:
                        if caller.done():
                            caller.result()
                    heard.look()
                    return len(load.accepted) >= accepted + PROGRESS and len(heard.ends) >= ends + PROGRESS

                wait_until(enough, 40, what)

            try:
                for part in parts:
                    progress(f"progress before {part} is killed")
                    last_kill = time.monotonic()
                    if part == "postgresql":
                        server = request.getfixturevalue("second_postgres_server")
                        stop_at_once(server)
                        server.ensure_postgres_running()
                    else:
                        os.kill(headway.pid_of(part), signal.SIGKILL)
                progress("progress after the last kill")
            finally:
                load.stop()
            for caller in running:
                caller.result(15)
            left = RECOVERED_WITHIN_S - (time.monotonic() - last_kill)
            owed = load.owed()
            wait_until(lambda: owed <= heard.look().ids.keys(), left, "every event to be received")
            took = time.monotonic() - last_kill
            database = Database.open(options[-1] if options else f"sqlite:///{headway.database}")
            try:
                check(load, heard, database)
            finally:
                database.close()
    finally:
        receiver.close()
    for got in receiver.got:
        assert Webhook(secret).verify(got.body, got.headers) == got.event
    print(
        f"{store}: {len(parts)} kills, {len(load.accepted)} accepted, {load.refused} refusals, "
        f"{len(heard.data)} events in {len(receiver.got)} posts, all within {took:.1f} s of the last kill"
    )


def check(load: Load, heard: Heard, database: Database) -> None:
    """Every end is right, and nothing was told that did not stay."""
    heard.look()
    rows = read(Predictions(database).read, [id_ for id_, _ in heard.ids])
    for id_, number in load.accepted.items():
        assert rows[id_].status is Status.SUCCEEDED
        assert msgspec.json.decode(rows[id_].output or b"null") == number * number
    for (id_, event), webhook_ids in heard.ids.items():
        (webhook_id,) = webhook_ids
        told, row = heard.data[webhook_id], rows[id_]
        assert told["revision"] <= row.revision
        assert told["attempt"] <= row.attempt
        if event == "prediction.succeeded":
            assert told["status"] == "succeeded"
            assert told["output"] == msgspec.json.decode(row.output or b"null")
            assert (told["attempt"], row.status) == (row.attempt, Status.SUCCEEDED)
        else:
            assert (event, told["status"]) == ("prediction.started", "in_progress")
    with database.read() as connection:
        owed = connection.exec_driver_sql("SELECT id, prediction_id, event FROM deliveries").all()
    assert {id_ for id_, _, _ in owed} >= heard.data.keys()
    assert len({(prediction_id, event) for _, prediction_id, event in owed}) == len(owed)


def read(some: Callable[[list[str]], dict[str, Any]], ids: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for start in range(0, len(ids), 500):
        found |= some(ids[start : start + 500])
    return found
