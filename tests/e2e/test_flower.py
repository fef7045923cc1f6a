"""What an operator sees in Flower: the worker online, each hint as a task, and of no prediction what was in it."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from celery import Celery
from kombu import Consumer

from headway import broker
from headway.running import RunningHeadway
from headway.testing import wait_until

PICKY = """
from headway import Model

class Picky(Model):
    def predict(self, inputs):
        if any("poison" in text for text in inputs):
            raise ValueError("poison among them")
        return [f"answer to {text}" for text in inputs]
"""

TASKS = dict[str, dict[str, Any]]


@pytest.fixture
def headway(tmp_path: Path, fresh_redis_url: str) -> Iterator[RunningHeadway]:
    version = tmp_path / "models" / "picky" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(PICKY)
    with RunningHeadway(tmp_path, flower=True, options=["--redis-url", fresh_redis_url]) as running:
        yield running


def predict(running: RunningHeadway, instances: list[str]) -> int:
    """The status of the answer."""
    url = f"{running.data_url}/v1/models/picky:predict"
    return httpx.post(url, json={"instances": instances}, timeout=30).status_code


def tasks(running: RunningHeadway) -> TASKS:
    answer: TASKS = httpx.get(f"{running.flower_url}/api/tasks").json()
    return answer


def test_flower_shows_the_worker_and_every_hint_and_no_payload(headway: RunningHeadway) -> None:
    def workers() -> dict[str, Any]:
        answer: dict[str, Any] = httpx.get(
            f"{headway.flower_url}/api/workers", params={"refresh": 1}, timeout=10
        ).json()
        return {name: worker for name, worker in answer.items() if "stats" in worker}

    ((name, worker),) = wait_until(workers, 20, "the worker in /api/workers").items()
    assert name.startswith("cpu@")
    assert "headway:picky@1:1" in {queue["name"] for queue in worker["active_queues"]}
    assert "headway.predict" in worker["registered"]
    wait_until(lambda: httpx.get(f"{headway.flower_url}/api/workers?status=1").json() == {name: True}, 20, "online")

    assert predict(headway, ["sesame one", "sesame two", "sesame three"]) == 200
    assert predict(headway, ["sesame", "sesame poison"]) == 500
    assert predict(headway, ["poison"]) == 500
    wait_until(lambda: len(tasks(headway)) == 3, 20, "three hints in /api/tasks")
    shown = tasks(headway)
    seen = {task["args"]: (task["state"], task["result"], task["exception"]) for task in shown.values()}
    assert seen == {
        "('picky@1 ×3',)": ("SUCCESS", "3 ok, 0 failed", None),
        "('picky@1 ×2',)": ("SUCCESS", "1 ok, 1 failed", None),
        "('picky@1 ×1',)": ("FAILURE", None, "0 ok, 1 failed"),
    }
    for task in shown.values():
        assert task["name"] == "headway.predict"
        assert task["worker"] == name
        assert 0 < task["runtime"] < 10
        assert task["received"] <= task["timestamp"]
    everything = httpx.get(f"{headway.flower_url}/api/tasks").text + str(worker)
    assert "sesame" not in everything
    assert "poison" not in everything
    assert httpx.get(f"{headway.flower_url}/tasks").status_code == 200


def test_however_many_hints_flower_hears_once_a_second(headway: RunningHeadway, fresh_redis_url: str) -> None:
    app = Celery("listener", set_as_current=False)
    app.conf.update(broker.celery_config(fresh_redis_url))
    heard: list[list[Any]] = []  # what one message tells of tasks
    with app.connection() as connection:
        queue = app.events.Receiver(connection).queue  # bound to everything that Flower's own is bound to

        def listen(body: Any, _: Any) -> None:
            if isinstance(body, list):
                heard.append(body)

        def enough() -> bool:
            with contextlib.suppress(TimeoutError):
                connection.drain_events(timeout=0.2)
            return sum(map(len, heard)) > 100

        with Consumer(connection, [queue], callbacks=[listen], no_ack=True):
            assert not enough()  # it subscribes when it first listens
            began = time.monotonic()
            with httpx.Client(base_url=headway.data_url, timeout=30) as caller:
                for _ in range(300):
                    assert caller.post("/v1/models/picky/predictions", json={"input": "sesame"}).status_code == 202
            wait_until(enough, 20, "events of more than a hundred hints")
            seconds = time.monotonic() - began
    assert len(heard) <= seconds + 2
