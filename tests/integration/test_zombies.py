"""Workers that were stopped past their lease and wake up: whatever they write then changes nothing and tells nobody."""

import os
import random
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from headway import broker
from headway.states import Status
from headway.testing import new_prediction, wait_until
from headway.types import Outcome, Prediction
from headway.webhooks import Events, WebhookStatus
from storage.deliveries import Deliveries
from storage.engine import Database
from storage.predictions import Finished, Predictions, Returned
from storage.workers import Workers
from tests.receiver import Receiver

ZOMBIES = 300
ROWS = 4

STARTED, SUCCEEDED = "prediction.started", "prediction.succeeded"


def test_three_hundred_zombies_overwrite_nothing(store: Any) -> None:
    """Each holds a claim of four rows when its lease ends; others run the rows meanwhile, or have only claimed them."""
    ids = store.submitted(
        ZOMBIES * ROWS, webhook="https://receiver.example/", webhook_events=Events.STARTED | Events.COMPLETED
    )
    claims = {}
    for number in range(ZOMBIES):
        store.workers.register(f"zombie{number}", "cpu", "host", number)
        mine = ids[number * ROWS : (number + 1) * ROWS]
        claims[store.claimed(mine, f"zombie{number}")[0]] = mine
    for number in range(ZOMBIES):
        store.workers.mark_dead(f"zombie{number}")
    queued = 0
    while given := store.predictions.give_back_dead():
        queued += len(given.queued)
    assert queued == len(ids)
    for start in range(0, len(ids), 6):  # so that the new micro-batches cut across the old ones
        claim, _ = store.claimed(ids[start : start + 6])
        if start % 12 == 0:
            store.finished(claim, ids[start : start + 6])
    before = store.predictions.read(ids)
    assert {row.status for row in before.values()} == {Status.SUCCEEDED, Status.IN_PROGRESS}
    running = [id_ for id_ in ids if before[id_].status is Status.IN_PROGRESS]
    ended = [id_ for id_ in ids if before[id_].status is Status.SUCCEEDED]
    owed = deliveries(store)
    assert sorted(owed) == sorted([(id_, STARTED) for id_ in ids] + [(id_, SUCCEEDED) for id_ in ended])

    overwritten: list[str] = []

    def wake(claim: str, mine: list[str]) -> None:
        """The result it had, and, having learned that it is late, its rows: each may come first."""
        late = [Outcome(id=id_, output=b'"late"') for id_ in mine]
        returned = [Returned(id=id_, losses=2, charge=True) for id_ in mine]
        for verb in random.Random(claim).sample(["finish", "give back"], 2):
            if verb == "finish":
                changed = bool(store.predictions.finish([Finished(claim=claim, outcomes=late, settled=True)]))
            else:
                changed = bool(store.predictions.give_back(claim, returned, True))
            if changed:
                overwritten.extend(mine)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda one: wake(*one), claims.items()))

    assert overwritten == []
    assert store.predictions.read(ids) == before
    assert deliveries(store) == owed
    for number in range(ZOMBIES):
        assert not store.workers.beat(f"zombie{number}")

    for id_ in running:
        store.finished(before[id_].claim, [id_], settled=False)
    assert sorted(deliveries(store)) == sorted((id_, event) for id_ in ids for event in (STARTED, SUCCEEDED))


def deliveries(store: Any) -> list[tuple[str, str]]:
    """(prediction, event) of every row, in the order of their ids."""
    with store.database.read() as connection:
        rows = connection.exec_driver_sql("SELECT prediction_id, event FROM deliveries ORDER BY id").all()
    return [(str(prediction_id), event) for prediction_id, event in rows]


MODEL = """
import os, time
from headway import Model

class Slow(Model):
    def predict(self, inputs):
        time.sleep(1)
        return [os.getppid()] * len(inputs)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="stops a process")
def test_a_worker_that_was_stopped_past_its_lease_ends_without_a_trace(
    postgres_url: str, fresh_redis_url: str, tmp_path: Path
) -> None:
    version = tmp_path / "slow" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(MODEL)
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HEADWAY_")},
        "HEADWAY_REDIS_URL": fresh_redis_url,
        "HEADWAY_DATABASE_URL": postgres_url,
        "HEADWAY_MODELS": str(tmp_path),
        "HEADWAY_WEBHOOK_ALLOW": "127.0.0.0/8",
    }
    database = Database.open(postgres_url)
    predictions, workers = Predictions(database), Workers(database)
    receiver = Receiver()
    row = new_prediction(
        model="slow",
        line=broker.line("slow", "1", 5),
        webhook=receiver.url,
        webhook_events=Events.STARTED | Events.COMPLETED,
    )
    started: list[subprocess.Popen[bytes]] = []

    def start(*words: str) -> subprocess.Popen[bytes]:
        with (tmp_path / f"log{len(started)}").open("w") as log:
            started.append(subprocess.Popen([sys.executable, "-m", "launch", *words], env=environ, stderr=log))
        return started[-1]

    def present() -> Prediction:
        return predictions.read([row.id])[row.id]

    try:
        first = start("worker", "--device", "cpu")
        predictions.insert([row])  # no hint: an idle worker asks
        wait_until(lambda: present().status is Status.IN_PROGRESS, 30, "the first worker's claim")
        first.send_signal(signal.SIGSTOP)
        (lost,) = workers.beats()
        claimed = present().claim

        start("utility")
        second = start("worker", "--device", "cpu")
        wait_until(lambda: present().status is Status.SUCCEEDED, 60, "the second worker's result")
        wait_until(lambda: present().webhook_status is WebhookStatus.SUCCEEDED, 20, "its webhook")
        ended = present()
        assert (ended.attempt, ended.claim != claimed) == (2, True)
        assert msgspec.json.decode(ended.output or b"") == second.pid
        assert lost not in workers.beats()

        first.send_signal(signal.SIGCONT)
        assert first.wait(20) == 70
        assert present() == ended
        assert [one.event for one in Deliveries(database).of(row.id, "default")] == [STARTED, SUCCEEDED]
        assert [got.event["type"] for got in receiver.got] == [STARTED, SUCCEEDED]
        assert len({got.id for got in receiver.got}) == 2
    finally:
        for process in started:
            process.kill()
            process.wait()
        database.close()
        receiver.close()
