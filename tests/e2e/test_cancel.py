"""Cancels, execution timeouts and what models report, on a whole worker: its device processes, SQL and Redis."""

import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import redis

from headway import broker, notices, reports, states
from headway.clock import now_us
from headway.errors import ItemCode
from headway.running import RunningHeadway
from headway.states import Status
from headway.testing import new_prediction, wait_until
from headway.types import Hint, Prediction
from storage.engine import Database
from storage.migrate import upgrade
from storage.predictions import Predictions

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the processes from /proc")

DEAF = """
import os, time
from headway import Model

class Deaf(Model):
    def predict(self, inputs):
        for seconds in inputs:
            time.sleep(seconds)
        return [os.getpid()] * len(inputs)
"""

ATTENTIVE = """
import os, threading
from headway import Model

class Attentive(Model):
    def predict(self, inputs, context):
        for seconds, item in zip(inputs, context.items, strict=True):
            for _ in range(int(seconds * 100)):
                if item.canceled():
                    break
                threading.Event().wait(0.01)
        return [os.getpid()] * len(inputs)
"""

TALKATIVE = """
from headway import Model

class Talkative(Model):
    def predict(self, inputs, context):
        for words, item in zip(inputs, context.items, strict=True):
            for number, word in enumerate(words, start=1):
                item.emit({"word": word})
                item.progress(number / len(words), word)
        return [" ".join(words) for words in inputs]
"""

PATIENT = """
import threading
from headway import Model

class Patient(Model):
    def predict(self, inputs, context):
        for item in context.items:
            item.progress(0.25, "a quarter")
            while not item.canceled():
                threading.Event().wait(0.01)
        return inputs
"""

STORMY = """
import os, time
from headway import Model

class Stormy(Model):
    def load(self, context):
        self.file = os.open(os.path.join(str(context.path), "computed"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def predict(self, inputs, context):
        for number, item in zip(inputs, context.items, strict=True):
            if number % 2 and item.canceled():
                continue
            os.write(self.file, f"{item.id} {time.time_ns() // 1000}\\n".encode())
            time.sleep(0.002)
        return inputs
"""


@dataclass
class Running:
    """A worker on a store of its own."""

    folder: Path
    log: Path
    process: "subprocess.Popen[bytes]"
    database: Database
    predictions: Predictions
    redis: "redis.Redis"

    def submit(self, model: str, *values: Any, limits_s: Mapping[int, float] | None = None) -> list[str]:
        """All at once, so that they travel together. `limits_s`: execution timeouts, by place."""
        line = broker.line(model, "1", 5)
        limits = {place: int(seconds * 1e6) for place, seconds in (limits_s or {}).items()}
        rows = [
            new_prediction(
                model=model, line=line, body=msgspec.json.encode(value), execution_timeout_us=limits.get(place)
            )
            for place, value in enumerate(values)
        ]
        positions = self.predictions.insert(rows)
        hints = [
            (row.priority, Hint(id=row.id, size=row.size, shape=None, position=int(position)))
            for row, position in zip(rows, positions, strict=True)
            if isinstance(position, int)
        ]
        self.redis.lpush(line, *(wire for _, wire in broker.envelopes(line, hints, at_most=1000)))
        return [row.id for row in rows]

    def cancel(self, id_: str) -> Status:
        changed, row = self.predictions.cancel(id_, "default")
        assert row is not None
        if changed and row.status is Status.CANCELING:
            self.redis.publish(notices.CANCELS, notices.encode_ids([id_]))
        return row.status

    def read(self, ids: Sequence[str]) -> list[Prediction]:
        rows = self.predictions.read(ids)
        return [rows[id_] for id_ in ids]

    def ended(self, ids: Sequence[str], timeout_s: float = 60) -> list[Prediction]:
        def all_ended() -> list[Prediction] | None:
            rows = self.read(ids)
            return rows if all(row.status.terminal for row in rows) else None

        try:
            return wait_until(all_ended, timeout_s, "the end of all") or []
        except TimeoutError as error:
            raise AssertionError(self.log.read_text()[-4000:]) from error

    def blame(self, ids: Sequence[str]) -> set[tuple[int, int]]:
        """What the rows are held to account for: (charged, losses)."""
        with self.database.read() as connection:
            rows = connection.exec_driver_sql("SELECT id, charged, losses FROM predictions").all()
        return {(charged, losses) for id_, charged, losses in rows if str(id_) in ids}

    def running(self, id_: str, for_s: float) -> None:
        def ran() -> bool:
            (row,) = self.read([id_])
            assert not row.status.terminal, row
            return row.status is Status.IN_PROGRESS and now_us() - (row.started_at or 0) >= for_s * 1e6

        wait_until(ran, 60, f"{id_} to run for {for_s} s")


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("cancel")
    for name, source in {"deaf": DEAF, "attentive": ATTENTIVE, "talkative": TALKATIVE, "stormy": STORMY}.items():
        version = folder / "models" / name / "1"
        version.mkdir(parents=True)
        (version / "model.py").write_text(source)
    (folder / "models" / "stormy" / "model.toml").write_text("[batching]\nmax_batch_size = 1000")
    url = f"sqlite:///{folder / 'headway.db'}"
    upgrade(url)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("HEADWAY_")} | {
        "HEADWAY_REDIS_URL": redis_url,
        "HEADWAY_DATABASE_URL": url,
        "HEADWAY_MODELS": str(folder / "models"),
    }
    log = folder / "worker.log"
    database = Database.open(url)
    with log.open("w") as stderr, redis.Redis.from_url(redis_url) as client:
        process = subprocess.Popen(
            [sys.executable, "-m", "launch", "worker", "--device", "cpu"], env=environ, stderr=stderr
        )
        try:
            yield Running(folder, log, process, database, Predictions(database), client)
        finally:
            process.terminate()
            process.wait(20)
            database.close()


def test_a_cancel_of_a_minute_frees_the_device_in_two_seconds_and_its_mates_succeed(worker: Running) -> None:
    ids = worker.submit("deaf", 0, 60, 0, 0)
    sleeper = ids[1]
    worker.running(sleeper, for_s=8)  # longer than a reload takes, be the machine ever so busy
    began = now_us()
    assert worker.cancel(sleeper) is Status.CANCELING
    (row,) = worker.ended([sleeper])
    freed_s = (now_us() - began) / 1e6
    print(f"freed after {freed_s:.2f} s")
    assert row.status is Status.CANCELED
    assert freed_s < 2
    mates = worker.ended([id_ for id_ in ids if id_ != sleeper])
    assert {mate.status for mate in mates} == {Status.SUCCEEDED}
    assert {mate.attempt for mate in mates} == {2}
    assert worker.blame(ids) == {(0, 0)}


def test_a_model_that_asks_lets_go_at_once_and_nothing_is_run_again(worker: Running) -> None:
    before = worker.ended(worker.submit("attentive", 0))[0].output
    ids = worker.submit("attentive", 0, 60, 0, 0)
    sleeper = ids[1]
    worker.running(sleeper, for_s=0.5)
    began = now_us()
    assert worker.cancel(sleeper) is Status.CANCELING
    rows = worker.ended(ids)
    print(f"freed after {(now_us() - began) / 1e6:.2f} s")
    assert now_us() - began < 2e6
    assert [row.status for row in rows] == [Status.SUCCEEDED, Status.CANCELED, Status.SUCCEEDED, Status.SUCCEEDED]
    assert {row.attempt for row in rows} == {1}
    assert {row.output for row in rows if row.output} == {before}  # the same process


def test_a_cancel_that_redis_lost_is_found_in_sql(worker: Running) -> None:
    (id_,) = worker.submit("attentive", 60)
    worker.running(id_, for_s=0.1)
    assert worker.predictions.cancel(id_, "default")[0]
    (row,) = worker.ended([id_], 30)
    assert row.status is Status.CANCELED


def test_an_execution_timeout_fails_its_row_in_time_and_kills_nothing(worker: Running) -> None:
    before = worker.ended(worker.submit("deaf", 0))[0].output
    late, *mates = worker.submit("deaf", 4, 0, 0, limits_s={0: 0.5, 1: 30})
    (row,) = worker.ended([late])
    assert row.error is not None
    assert (row.status, row.error.code) == (Status.FAILED, ItemCode.EXECUTION_TIMEOUT)
    assert "its own 0.5 s" in row.error.message
    assert row.completed_at is not None
    assert row.started_at is not None
    took_s = (row.completed_at - row.started_at) / 1e6
    print(f"failed after {took_s:.2f} s")
    assert 0.5 <= took_s < 3.5
    rows = worker.ended(mates)
    assert {(row.status, row.attempt, row.output) for row in rows} == {(Status.SUCCEEDED, 1, before)}
    assert worker.read([late]) == [row]  # the answer that came after all changed nothing


def test_a_device_whose_every_row_is_over_its_own_time_is_freed(worker: Running) -> None:
    late = worker.submit("deaf", 60, 60, limits_s={0: 5, 1: 6})
    assert {row.status for row in worker.ended(late)} == {Status.FAILED}
    began = now_us()
    assert worker.ended(worker.submit("deaf", 0))[0].status is Status.SUCCEEDED
    print(f"the next one was done after {(now_us() - began) / 1e6:.2f} s")


def test_what_a_model_reports_is_in_redis_before_the_end_is_told_and_its_progress_in_sql(worker: Running) -> None:
    with worker.redis.pubsub() as channel:  # type: ignore[no-untyped-call]
        channel.subscribe(notices.CHANNEL, reports.CHANNEL)
        words = [f"w{number}" for number in range(200)]
        one, other = worker.submit("talkative", words, ["all", "aboard"])
        told: set[str] = set()
        found: dict[str, list[Any]] = {}

        def ended() -> bool:
            message = channel.get_message(ignore_subscribe_messages=True, timeout=0.1)
            if message is not None and message["channel"] == reports.CHANNEL.encode():
                told.update(notices.decode_ids(message["data"]))
            elif message is not None:
                for id_ in {one, other} & set(notices.decode(message["data"]).ids):
                    found[id_] = worker.redis.lrange(reports.key(id_), 0, -1)
            return len(found) == 2

        wait_until(ended, 60, "both notices")
    assert told == {one, other}
    for id_, sent in {one: words, other: ["all", "aboard"]}.items():
        said = [reports.decode(payload) for payload in found[id_]]
        assert [report.n for report in said] == list(range(1, len(said) + 1))
        assert {report.attempt for report in said} == {1}
        assert [msgspec.json.decode(report.data) for report in said if report.kind == "output"] == [
            {"word": word} for word in sent
        ]
        last = [report for report in said if report.kind == "progress"][-1]
        assert msgspec.json.decode(last.data) == {"fraction": 1.0, "message": sent[-1]}
        assert 0 < worker.redis.ttl(reports.key(id_)) <= reports.KEPT_S


def test_over_http_a_client_sees_how_far_it_is_and_stops_it(tmp_path: Path) -> None:
    version = tmp_path / "models" / "patient" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(PATIENT)
    with RunningHeadway(tmp_path) as headway, httpx.Client(base_url=headway.data_url, timeout=60) as client:
        accepted = client.post("/v1/models/patient/predictions", json={"input": 1})
        urls = accepted.json()["urls"]
        shown = wait_until(lambda: client.get(urls["get"]).json()["progress"], 30, "a progress")
        assert shown == {"fraction": 0.25, "message": "a quarter"}
        began = time.monotonic()
        answer = client.post(urls["cancel"])
        assert (answer.status_code, answer.json()["status"]) == (202, "canceling")
        ended = client.get(urls["get"], headers={"Prefer": "wait=30"}).json()
        print(f"canceled after {time.monotonic() - began:.2f} s")
        assert (ended["status"], ended["error"], ended["output"]) == ("canceled", None, None)
        assert time.monotonic() - began < 2
        assert client.post(urls["cancel"]).status_code == 200
        limited = client.post(
            "/v1/models/patient/predictions",
            json={"input": 1, "execution_timeout_seconds": 0.3},
            headers={"Prefer": "wait=30"},
        ).json()
        assert (limited["status"], limited["error"]["code"]) == ("failed", "execution_timeout")


def test_a_thousand_cancels_among_five_thousand_end_every_prediction_once_and_none_runs_after_its_cancel(
    worker: Running,
) -> None:
    """Every other one asks whether it is canceled; a call of a thousand lasts two seconds, longer than most reloads."""
    chance = random.Random(4)
    ids = worker.submit("stormy", *range(5000))
    worker.running(ids[0], for_s=0.1)
    unwanted = chance.sample(ids[:2500], 700) + chance.sample(ids[2500:], 300)
    chance.shuffle(unwanted)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(worker.cancel, unwanted))
    rows = dict(zip(ids, worker.ended(ids, 100), strict=True))

    computed: dict[str, list[int]] = {}
    for line in (worker.folder / "models" / "stormy" / "1" / "computed").read_text().splitlines():
        id_, at = line.split()
        computed.setdefault(id_, []).append(int(at))
    print("answers:", Counter(status.label for status in answers))
    print("ends:", Counter(row.status.label for row in rows.values()))
    print("reloads:", worker.log.read_text().count("computed what nobody wanted"))
    assert {rows[id_].status for id_ in set(ids) - set(unwanted)} == {Status.SUCCEEDED}
    assert {rows[id_].status for id_ in unwanted} <= {Status.SUCCEEDED, Status.CANCELED}
    assert Status.CANCELING in answers
    for id_ in unwanted:
        if rows[id_].status is Status.CANCELED:
            assert all(at <= (rows[id_].completed_at or 0) for at in computed.get(id_, []))
    assert all(len(times) <= rows[id_].attempt for id_, times in computed.items())
    for row in rows.values():  # one way of life each, and it is a legal one
        steps = states.history(
            row.status,
            created_at=row.created_at,
            started_at=row.started_at,
            completed_at=row.completed_at,
            log=row.log,
        )
        moves = zip((step.status for step in steps), (step.status for step in steps[1:]), strict=False)
        assert set(moves) <= set(states.TRANSITIONS)
