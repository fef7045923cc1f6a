"""A backlog stays in Redis: a busy worker takes out what its window holds, for one model as for the next."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import msgspec
import pytest
import redis

from headway import broker
from headway.running import RunningHeadway
from headway.testing import wait_until

SLOW = """
import pathlib, time
from headway import Model

class Slow(Model):
    def predict(self, inputs):
        while pathlib.Path("{gate}").exists():
            time.sleep(0.01)
        return inputs
"""

QUICK = """
from headway import Model

class Quick(Model):
    def predict(self, inputs):
        return inputs
"""


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """While this file exists the slow model does not answer."""
    path = tmp_path / "gate"
    path.touch()
    return path


@pytest.fixture
def headway(tmp_path: Path, gate: Path, fresh_redis_url: str) -> Iterator[RunningHeadway]:
    for name, source in {"slow": SLOW.replace("{gate}", str(gate)), "quick": QUICK}.items():
        version = tmp_path / "models" / name / "1"
        version.mkdir(parents=True)
        (version / "model.py").write_text(source)
        (version.parent / "model.toml").write_text('[batching]\nmax_batch_size = 4\nsize = "none"\n')
    with RunningHeadway(tmp_path, options=["--redis-url", fresh_redis_url]) as running:
        yield running


def test_a_full_window_leaves_the_rest_in_redis_and_other_models_go_on(
    headway: RunningHeadway, gate: Path, fresh_redis_url: str
) -> None:
    line = broker.line("slow", "1", 5)
    with (
        redis.Redis.from_url(fresh_redis_url) as client,
        httpx.Client(base_url=headway.data_url, timeout=30) as http,
        ThreadPoolExecutor(8) as callers,
    ):

        def submit(number: int) -> str:
            return str(http.post("/v1/models/slow/predictions", json={"input": number}).json()["id"])

        ids = list(callers.map(submit, range(100)))
        # Two calls of 4 in flight, a window of 8, and at most the envelope of 4 that filled it.
        wait_until(lambda: queued(client, line) <= 100 - 8, 10, "the worker to fill its window")
        assert http.post("/v1/models/quick:predict", json={"instances": [7]}).json() == {"predictions": [7]}
        assert queued(client, line) >= 100 - 8 - 8 - 4

        gate.unlink()
        for number, id_ in enumerate(ids):
            prediction = http.get(f"/v1/predictions/{id_}", headers={"Prefer": "wait=20"}).json()
            assert (prediction["status"], prediction["output"]) == ("succeeded", number)
        assert queued(client, line) == 0


def queued(client: "redis.Redis", line: str) -> int:
    """Hints in the line's list."""
    envelopes = client.lrange(line, 0, -1)
    assert isinstance(envelopes, list)
    return sum(len(broker.decode_body(msgspec.json.decode(envelope)["body"]).ids) for envelope in envelopes)
