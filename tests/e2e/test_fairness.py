"""Fair service with real processes: what a tenant, or a priority, gets beside another's flood, in micro-batches.

The model says of each prediction in which of its calls it ran. While a gate is closed it stands still within a call, so
that what was there before and what came after is no matter of luck.
"""

import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis

from headway import broker
from headway.clock import now_us
from headway.running import RunningHeadway
from headway.testing import new_prediction, wait_until
from headway.types import Hint
from launch.keys import create
from storage.engine import Database
from storage.predictions import Predictions
from storage.tenants import Tenants

BATCH = 32
_GROUP = 15 * BATCH

#: Some milliseconds a call, like a small model on a device.
COUNTING = """
import pathlib, time
from headway import Model

class Counting(Model):
    calls = 0

    def predict(self, inputs):
        self.calls += 1
        while pathlib.Path("{gate}").exists():
            time.sleep(0.002)
        time.sleep({seconds})
        return [self.calls] * len(inputs)
"""


class Flooded:
    """A running Headway whose models `quick` (3 ms a call) and `slow` (20 ms) wait behind a gate."""

    def __init__(self, running: RunningHeadway, gate: Path, redis_url: str) -> None:
        self.running = running
        self.gate = gate
        self.database = Database.open(f"sqlite:///{running.database}")
        self.predictions = Predictions(self.database)
        self.tenants = Tenants(self.database)
        self.redis = redis.Redis.from_url(redis_url)

    def flood(self, model: str, tenant: str, count: int, *, priority: int = 5) -> str:
        """So many rows of a tenant and their hints, as the API would have written them; their line."""
        line = broker.line(model, "1", priority, self.tenants.admit(tenant))
        for start in range(0, count, _GROUP):
            rows = [
                new_prediction(tenant_id=tenant, model=model, line=line, priority=priority, body=b"1")
                for _ in range(min(_GROUP, count - start))
            ]
            positions = self.predictions.insert(rows)
            hints = [
                (priority, Hint(id=row.id, size=row.size, shape=None, position=position))
                for row, position in zip(rows, positions, strict=True)
                if isinstance(position, int)
            ]
            self.redis.lpush(line, *(wire for _, wire in broker.envelopes(line, hints, at_most=BATCH)))
        return line

    def standing_still(self, line: str, count: int) -> None:
        """Until the worker holds as much of a line as it wants: one call on the device, one waiting, a full window."""
        seen = [0, 0]

        def steady() -> bool:
            seen.append(self.redis.llen(line))
            return seen[-1] < count / BATCH and len(set(seen[-40:])) == 1

        wait_until(steady, 20, "the window to fill")

    def ended(self, model: str) -> Counter[str]:
        """By tenant."""
        with sqlite3.connect(self.running.database) as connection:
            query = "SELECT tenant_id, count(*) FROM predictions WHERE model = ? AND status = 3 GROUP BY tenant_id"
            return Counter(dict(connection.execute(query, (model,)).fetchall()))

    def calls_begun(self, model: str) -> int:
        """The number of the call that stands at the gate, or stood there last."""
        with sqlite3.connect(self.running.database) as connection:
            query = "SELECT max(CAST(output AS integer)) FROM predictions WHERE model = ? AND status = 3"
            return 1 + int(connection.execute(query, (model,)).fetchone()[0] or 0)

    def close(self) -> None:
        self.redis.close()
        self.database.close()


@pytest.fixture
def flooded(tmp_path: Path, fresh_redis_url: str) -> Iterator[Flooded]:
    gate = tmp_path / "gate"
    gate.touch()
    for name, seconds in {"quick": 0.003, "slow": 0.02}.items():
        version = tmp_path / "models" / name / "1"
        version.mkdir(parents=True)
        (version / "model.py").write_text(COUNTING.replace("{gate}", str(gate)).replace("{seconds}", str(seconds)))
        (version.parent / "model.toml").write_text(f"[batching]\nmax_batch_size = {BATCH}\nmax_queue = 100000\n")
    with RunningHeadway(tmp_path, options=["--redis-url", fresh_redis_url]) as running:
        made = Flooded(running, gate, fresh_redis_url)
        try:
            yield made
        finally:
            gate.unlink(missing_ok=True)
            made.close()


def test_a_tenants_one_prediction_passes_anothers_twenty_thousand_in_a_few_micro_batches(
    flooded: Flooded, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{flooded.running.database}"
    key = create(url, "beta", ["predict", "read"], "")
    line = flooded.flood("slow", "alpha", 20_000)
    flooded.standing_still(line, 20_000)
    begun = flooded.calls_begun("slow")
    with httpx.Client(
        base_url=flooded.running.data_url, headers={"Authorization": f"Bearer {key}"}, timeout=60
    ) as client:
        wait_until(lambda: client.get("/v1/models").status_code == 200, 10, "the key to be known")
        path = client.post("/v1/models/slow/predictions", json={"input": 1}).headers["location"]
        theirs = broker.line("slow", "1", 5, flooded.tenants.admit("beta"))
        wait_until(lambda: flooded.redis.llen(theirs), 10, "the hint to lie in its line")

        flooded.gate.unlink()
        prediction = client.get(path, headers={"Prefer": "wait=30"}).json()

    assert prediction["status"] == "succeeded", prediction
    waited = prediction["output"] - begun
    left = 20_000 - flooded.ended("slow")["alpha"]
    with capsys.disabled():
        print(f"\nalpha has 20,000 queued, {20_000 // BATCH} micro-batches; beta's one waited for {waited} of them")
    assert waited <= 4
    assert left > 10_000


def test_the_line_of_a_tenant_who_came_late_is_fetched_from_before_and_after_a_reconnect(flooded: Flooded) -> None:
    flooded.gate.unlink()
    line = flooded.flood("quick", "late", 1)
    wait_until(lambda: not flooded.redis.exists(line), 10, "the worker to have learned the line")
    flooded.redis.client_kill_filter(_type="normal", skipme=True)
    flooded.flood("quick", "late", 1)
    wait_until(lambda: not flooded.redis.exists(line), 20, "the worker to fetch from it again")
    wait_until(lambda: flooded.ended("quick")["late"] == 2, 10, "both to be done")


def test_tenants_who_flood_are_served_by_their_weights(flooded: Flooded, capsys: pytest.CaptureFixture[str]) -> None:
    flooded.tenants.weigh("light", 1)
    flooded.tenants.weigh("heavy", 3)
    for tenant in ("light", "heavy"):
        flooded.flood("quick", tenant, 8_000)
    flooded.gate.unlink()

    wait_until(lambda: flooded.ended("quick").total() >= 8_000, 60, "250 micro-batches")
    served = flooded.ended("quick")

    with capsys.disabled():
        print(f"\nweights 1 : 3, served {served['light']:,} : {served['heavy']:,}")
    assert served["heavy"] / served["light"] == pytest.approx(3, rel=0.2)


def test_the_last_priority_runs_within_its_ageing_bound_under_a_flood_of_the_first(
    flooded: Flooded, capsys: pytest.CaptureFixture[str]
) -> None:
    line = flooded.flood("slow", "default", 24_000, priority=0)  # 15 s of them at the least
    flooded.standing_still(line, 24_000)
    with httpx.Client(base_url=flooded.running.data_url, timeout=120) as client:
        path = client.post("/v1/models/slow/predictions", json={"input": 1, "priority": 9}).headers["location"]
        flooded.gate.unlink()
        opened = now_us()
        wait_until(lambda: client.get(path).json()["status"] == "succeeded", 90, "it to run")
        prediction = client.get(path).json()

    with sqlite3.connect(flooded.running.database) as connection:
        query = """SELECT count(DISTINCT flood.claim) FROM predictions late
            JOIN predictions flood ON flood.model = 'slow' AND flood.priority = 0
            WHERE late.id = ? AND flood.started_at > ? AND flood.started_at < late.started_at"""
        (beyond,) = connection.execute(query, (prediction["id"], opened + 9_000_000)).fetchone()
    with capsys.disabled():
        waited = prediction["metrics"]["queue_seconds"]
        print(f"\npriority 9 under a flood of 0s waited {waited:.1f} s, {beyond} micro-batches beyond nine seconds")
    # Nine steps of priority, a second each. What is beyond is counted in micro-batches, not in seconds of this machine:
    # it is fetched after ten envelopes at the latest, and one micro-batch waits while another runs.
    assert beyond <= 13
    assert prediction["output"] < 24_000 // BATCH - 20
