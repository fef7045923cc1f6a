"""Workers that were stopped past their lease and wake up: whatever they write then changes nothing and tells nobody."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from headway import broker
from headway.states import Status
from headway.testing import new_prediction, wait_until
from headway.types import Prediction
from headway.webhooks import Events, WebhookStatus
from storage.deliveries import Deliveries
from storage.engine import Database
from storage.predictions import Predictions
from storage.workers import Workers
from tests.receiver import Receiver
from tests.zombies import STARTED, SUCCEEDED, wake_zombies

#: A tenth of what `make endurance` wakes.
ZOMBIES = 100


def test_a_hundred_zombies_overwrite_nothing(store: Any) -> None:
    wake_zombies(store, ZOMBIES)


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
        assert first.wait(20) in (1, 70)  # it was declared dead, or had been stopped for longer than anybody waits
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
