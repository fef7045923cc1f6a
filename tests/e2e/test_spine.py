"""On whole processes: batches form by themselves, a bad item fails alone, and a bad model stops nobody."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from headway.running import RunningHeadway
from headway.testing import wait_until
from storage.engine import Database
from storage.workers import Workers

ECHO = """
import time
from headway import Model

class Echo(Model):
    def predict(self, inputs):
        return [{"value": value, "batch": len(inputs)} for value in inputs]
"""

MOODY = """
import math, os, signal, threading
from headway import Model

class Moody(Model):
    def predict(self, inputs):
        if "raise" in inputs:
            raise RuntimeError("a bad item is among them")
        if "exit" in inputs:
            os._exit(3)
        if "segv" in inputs:
            os.kill(os.getpid(), signal.SIGSEGV)
        if "hang" in inputs:
            threading.Event().wait()
        if "memory" in inputs:
            raise MemoryError("no room")
        if "short" in inputs:
            return [value for value in inputs if value != "short"]
        special = {"nan": math.nan, "exception": ValueError("this one"), "unserialisable": object(), "none": None}
        return [special.get(value, value) for value in inputs]
"""

STICKY = """
from headway import Model

class Sticky(Model):
    broken = False

    def predict(self, inputs):
        if self.broken:
            raise RuntimeError("nothing works in this process any more")
        self.broken = "break" in inputs
        return inputs
"""

NARROW = """
from headway import Model

class Narrow(Model):
    refused = 0

    def predict(self, inputs):
        if len(inputs) > 4:
            self.refused += 1
            raise MemoryError("no room")
        return [{"value": value, "refused": self.refused} for value in inputs]
"""

DIES_LOADING = """
import os, signal
from pathlib import Path
from headway import Model

class Dies(Model):
    def load(self, context):
        with Path({diary!r}).open("a") as diary:
            diary.write("x")
            if diary.tell() <= {deaths}:
                os.kill(os.getpid(), signal.SIGKILL)

    def predict(self, inputs):
        return inputs
"""

MOODY_TOML = """
[batching]
max_wait_ms = 200

[limits]
max_attempts = 2
timeout_s = 2
"""


@pytest.fixture(scope="module")
def headway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHeadway]:
    folder = tmp_path_factory.mktemp("spine")
    sources = {"echo": ECHO, "moody": MOODY, "sticky": STICKY, "narrow": NARROW}
    sources["broken"] = "raise RuntimeError('no weights here')"
    for name, deaths in {"unlucky": 2, "doomed": 100}.items():
        sources[name] = DIES_LOADING.format(deaths=deaths, diary=str(folder / name))
    for name, source in sources.items():
        version = folder / "models" / name / "1"
        version.mkdir(parents=True)
        (version / "model.py").write_text(source)
    (folder / "models" / "moody" / "model.toml").write_text(MOODY_TOML)
    with RunningHeadway(folder) as running:
        yield running


async def submit(client: httpx.AsyncClient, model: str, value: object) -> str:
    """The id of an accepted prediction; tries again while the front is away, as a client would."""
    while True:
        try:
            answer = await client.post(f"/v1/models/{model}/predictions", json={"input": value})
        except httpx.TransportError:
            await asyncio.sleep(0.1)
            continue
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])


async def result(client: httpx.AsyncClient, id_: str, deadline: float) -> dict[str, Any]:
    while True:
        answer = await client.get(f"/v1/predictions/{id_}", headers={"Prefer": "wait=10"})
        prediction: dict[str, Any] = answer.json()
        if prediction["status"] in ("succeeded", "failed", "canceled", "expired"):
            return prediction
        assert time.monotonic() < deadline, prediction


def test_a_thousand_predictions_by_fifty_callers_form_batches_and_come_back_right(headway: RunningHeadway) -> None:
    async def callers() -> list[tuple[int, dict[str, Any]]]:
        numbers = iter(range(1000))
        done: list[tuple[int, dict[str, Any]]] = []

        async def caller() -> None:
            # A client each: one pool of fifty connections costs more than everything it measures.
            async with httpx.AsyncClient(base_url=headway.data_url, timeout=60) as client:
                for number in numbers:
                    answer = await client.post(
                        "/v1/models/echo/predictions", json={"input": number}, headers={"Prefer": "wait=30"}
                    )
                    assert answer.status_code == 200
                    done.append((number, answer.json()))

        await asyncio.gather(*(caller() for _ in range(50)))
        return done

    done = asyncio.run(callers())
    assert sorted(number for number, _ in done) == list(range(1000))
    for number, prediction in done:
        assert prediction["output"]["value"] == number
        assert prediction["output"]["batch"] == prediction["metrics"]["batch_size"] <= 32
    mean = sum(prediction["metrics"]["batch_size"] for _, prediction in done) / len(done)
    print(f"mean batch size {mean:.1f}")
    assert mean > 8


@pytest.mark.parametrize(
    ("bad", "code", "charged"),
    [
        ("raise", "model_error", False),
        ("exception", "model_error", False),
        ("nan", "output_invalid", False),
        ("unserialisable", "output_invalid", False),
        ("short", "output_invalid", False),
        ("exit", "worker_lost", True),
        ("segv", "worker_lost", True),
        ("hang", "execution_timeout", True),
        ("memory", "out_of_memory", True),
    ],
)
def test_a_bad_item_fails_alone(headway: RunningHeadway, bad: str, code: str, charged: bool) -> None:
    instances: list[object] = [*range(31), bad]
    answer = httpx.post(
        f"{headway.data_url}/v1/models/moody:predict",
        json={"instances": instances},
        headers={"Prefer": "wait=50"},
        timeout=60,
    )
    problem = answer.json()
    assert answer.status_code == (422 if code == "output_invalid" else 500), problem
    predictions = problem["predictions"]
    failed = {one["index"]: one for one in predictions if one["code"] is not None}
    assert [(index, one["code"]) for index, one in failed.items()] == [(31, code)]
    for one in predictions:
        prediction = httpx.get(f"{headway.data_url}/v1/predictions/{one['id']}").json()
        if one["index"] != 31:
            assert prediction["status"] == "succeeded"
            assert prediction["output"] == one["index"]
        if not charged:
            assert prediction["attempt"] == 1
        elif one["index"] == 31:
            # Alone as often as max_attempts says; before that at most once in company, which is not held against it.
            assert prediction["attempt"] in (2, 3)


def test_what_does_not_fit_into_memory_is_learned_once(headway: RunningHeadway) -> None:
    def refused() -> int:
        answer = httpx.post(
            f"{headway.data_url}/v1/models/narrow:predict", json={"instances": list(range(32))}, timeout=60
        ).json()
        assert [one["value"] for one in answer["predictions"]] == list(range(32))
        return max(int(one["refused"]) for one in answer["predictions"])

    learned = refused()
    assert learned > 0
    assert [refused(), refused()] == [learned, learned]


def test_while_a_model_hangs_the_others_answer_and_the_worker_lives(headway: RunningHeadway) -> None:
    worker = headway.pid_of("worker")

    def beats() -> dict[str, int]:
        database = Database.open(f"sqlite:///{headway.database}")
        try:
            return Workers(database).beats()
        finally:
            database.close()

    with httpx.Client(base_url=headway.data_url, timeout=30) as client:
        url = client.post("/v1/models/moody/predictions", json={"input": "hang"}).json()["urls"]["get"]
        before = beats()
        answered = 0
        while client.get(url).json()["status"] not in ("failed", "succeeded"):
            began = time.monotonic()
            answer = client.post("/v1/models/echo:predict", json={"instances": [answered]})
            assert answer.json()["predictions"] == [{"value": answered, "batch": 1}]
            assert time.monotonic() - began < 1.5
            answered += 1
        assert client.get(url).json()["error"]["code"] == "execution_timeout"
    assert answered > 20
    (id_,) = before
    assert beats()[id_] > before[id_]
    assert headway.pid_of("worker") == worker


def test_a_process_in_which_every_item_fails_is_replaced_before_the_items_are_blamed(headway: RunningHeadway) -> None:
    def predict(instances: list[object]) -> httpx.Response:
        return httpx.post(f"{headway.data_url}/v1/models/sticky:predict", json={"instances": instances}, timeout=60)

    assert predict(["break"]).json() == {"predictions": ["break"]}
    answer = predict(list(range(8)))
    assert answer.status_code == 200, answer.json()
    assert answer.json() == {"predictions": list(range(8))}


def test_submissions_are_accepted_while_redis_hangs_and_run(headway: RunningHeadway) -> None:
    pid = headway.pid_of("valkey")
    os.kill(pid, signal.SIGSTOP)
    try:
        ids = []
        for number in range(20):
            began = time.monotonic()
            answer = httpx.post(f"{headway.data_url}/v1/models/echo/predictions", json={"input": number})
            assert answer.status_code == 202
            assert time.monotonic() - began < 2
            ids.append(answer.json()["id"])
    finally:
        os.kill(pid, signal.SIGCONT)

    def all_done() -> bool:
        answers = [httpx.get(f"{headway.data_url}/v1/predictions/{id_}").json() for id_ in ids]
        return [one["status"] for one in answers] == ["succeeded"] * len(ids)

    wait_until(all_done, 30, "the predictions to run")


def test_a_device_process_that_dies_while_it_loads_is_started_again(headway: RunningHeadway) -> None:
    """By chance, as when the kernel is short of memory; one that always dies is called failed."""
    answered = httpx.post(f"{headway.data_url}/v1/models/unlucky:predict", json={"instances": [1]}, timeout=30)
    assert answered.json() == {"predictions": [1]}

    def versions() -> Any:
        return httpx.get(f"{headway.data_url}/v1/models/doomed/versions").json()["data"]

    wait_until(lambda: versions()[0]["state"] == "failed", 20, "the doomed one to be given up")
    assert "signal 9" in versions()[0]["reason"]


def test_a_broken_model_is_listed_with_its_reason_and_stops_nobody(headway: RunningHeadway) -> None:
    answer = httpx.get(f"{headway.data_url}/v1/models/broken/versions").json()
    (version_,) = answer["data"]
    assert version_["state"] == "failed"
    assert "no weights here" in version_["reason"]
    refused = httpx.post(f"{headway.data_url}/v1/models/broken/predictions", json={"input": 1})
    assert refused.status_code == 503
    assert "no weights here" in refused.json()["detail"]
    answered = httpx.post(f"{headway.data_url}/v1/models/echo:predict", json={"instances": [1]}, timeout=30)
    assert answered.json()["predictions"][0]["value"] == 1
