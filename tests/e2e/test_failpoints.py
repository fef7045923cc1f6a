"""Whatever happens at whichever step: what was accepted ends once, right, and its receiver hears of it under one id.

Every point × killed, failed, stalled × SQLite, PostgreSQL: `make chaos` runs all; here runs a tenth, drawn by a seed.
"""

import itertools
import os
import random
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import redis

from headway.clock import new_id
from headway.failpoints import POINTS
from headway.running import RunningHeadway
from headway.testing import wait_until
from storage.engine import Database
from tests.postgres import create
from tests.receiver import Receiver

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the processes in /proc")

STORES = ("sqlite", "postgresql")
ACTIONS = ("kill", "error", "stall 3")
MATRIX = list(itertools.product(STORES, POINTS, ACTIONS))

SQUARE = """
import time
from headway import Model

class Square(Model):
    def predict(self, inputs):
        time.sleep(max(one["sleep"] for one in inputs))
        return [one["number"] ** 2 for one in inputs]
"""

PREDICTIONS = 12
CALLERS = 4
#: From the burst to the last webhook, whatever was done meanwhile.
RECOVERED_WITHIN_S = 45.0
#: Hints count as lost after ten seconds and some passes of the janitor.
BLOCKED_S = 17.0


class Case(NamedTuple):
    store: str
    point: str
    action: str

    def __str__(self) -> str:
        return f"{self.store}-{self.point}-{self.action.replace(' ', '')}"


def chosen() -> list[Case]:
    """All of the matrix with FAILPOINTS=all, else a tenth of it, another one for each FAILPOINTS_SEED."""
    cases = [Case(*one) for one in MATRIX]
    if os.environ.get("FAILPOINTS") != "all":
        cases = random.Random(os.environ.get("FAILPOINTS_SEED", "7")).sample(cases, len(cases) // 10)
    # Deaths of one part in a row make its supervisor patient: its points are spread, and a store's cases stay together.
    return sorted(cases, key=lambda case: (case.store, case.action, case.point.partition(".")[2], case.point))


class System:
    """A Headway with failpoints, its receiver, and what hangs on both."""

    def __init__(self, folder: Path, database_url: str | None) -> None:
        for model in ("square", "single"):
            version = folder / "models" / model / "1"
            version.mkdir(parents=True)
            (version / "model.py").write_text(SQUARE)
        (folder / "models" / "single" / "model.toml").write_text("[batching]\nmax_batch_size = 1\n")
        self.points = folder / "points"
        self.points.mkdir()
        self.receiver = Receiver()
        options = ["--devices", "cpu"] + (["--database-url", database_url] if database_url else [])
        self.headway = RunningHeadway(
            folder,
            options=options,
            environ={
                "HEADWAY_FAILPOINTS": str(self.points),
                "HEADWAY_WEBHOOK_ALLOW": "127.0.0.0/8",
                "HEADWAY_WEBHOOK_SCHEDULE": "0.3,0.6,1,2,4,8,16",
            },
        )
        self.headway.wait_ready()
        self.database = Database.open(database_url or f"sqlite:///{self.headway.database}")

    def arm(self, point: str, action: str) -> Callable[[], bool]:
        """Asks whether it has fired."""
        for old in self.points.iterdir():
            old.unlink()
        unseen = self.points / f"{point}.unseen"
        unseen.write_text(action)
        unseen.rename(self.points / point)
        return (self.points / f"{point}.fired").exists

    def submit(self, number: int, key: str, sleep: float, model: str = "square") -> str:
        """Once there is a 202: its id."""
        body = {
            "input": {"number": number, "sleep": sleep},
            "webhook": self.receiver.url,
            "webhook_events": ["started", "completed"],
        }
        path = f"/v1/models/{model}/predictions"
        give_up = time.monotonic() + 30
        with httpx.Client(base_url=self.headway.data_url, timeout=10) as client:
            while time.monotonic() < give_up:
                try:
                    answer = client.post(path, json=body, headers={"Idempotency-Key": key})
                except httpx.TransportError:
                    continue
                if answer.status_code in (200, 202):
                    return str(answer.json()["id"])
                assert answer.status_code == 503, answer.text
        raise TimeoutError("no 202 within 30 s")

    def rows(self, statement: str) -> list[Any]:
        with self.database.read() as connection:
            return list(connection.exec_driver_sql(statement).all())

    def close(self) -> None:
        self.database.close()
        self.receiver.close()
        code = self.headway.close()
        assert code in (0, 1), self.headway.tail()  # 1: a part had to be killed, as one that stalls may have to be


@pytest.fixture(scope="module")
def systems(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Callable[[str], System]]:
    """One at a time: a store's cases share it."""
    running: dict[str, System] = {}

    def new_database() -> str:
        server = request.getfixturevalue("postgres_server")
        return str(server.get_uri(create(server, "template1")))

    def get(store: str) -> System:
        if store not in running:
            while running:
                running.popitem()[1].close()
            running[store] = System(tmp_path_factory.mktemp(store), None if store == "sqlite" else new_database())
        return running[store]

    yield get
    while running:
        running.popitem()[1].close()


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=str(case), marks=pytest.mark.xdist_group(case.store)) for case in chosen()]
)
def test_what_was_accepted_ends_once_and_its_receiver_hears_of_it_under_one_id(
    case: Case, systems: Callable[[str], System]
) -> None:
    system = systems(case.store)
    fired = system.arm(case.point, case.action)
    keys = {new_id(): number for number in range(PREDICTIONS)}
    with ThreadPoolExecutor(CALLERS) as callers:
        if case.point == "reconcile.recovering":
            ids = lost_hints(system, keys)
        else:
            slow = case.point == "reconcile.given_back"
            ids = dict(zip(keys, callers.map(lambda key: system.submit(keys[key], key, 0.5 * slow), keys), strict=True))
            if slow:
                system.headway.pid_of("square@1")
                os.kill(system.headway.pid_of("worker"), signal.SIGKILL)
        wait_until(fired, RECOVERED_WITHIN_S, f"{case.point} to be passed")
    assert len(set(ids.values())) == PREDICTIONS
    ends(system, ids, keys)


def lost_hints(system: System, keys: dict[str, int]) -> dict[str, str]:
    """Submits what gets no hint, behind a worker that is busy, and so does not look into SQL by itself."""
    blocker = system.submit(0, new_id(), BLOCKED_S, "single")
    for _ in range(4):
        system.submit(0, new_id(), 0.0, "single")
    with redis.Redis.from_url(redis_url(system)) as client:
        line = system.rows(f"SELECT line FROM predictions WHERE id = '{blocker}'")[0][0]
        begun = f"SELECT 1 FROM predictions WHERE id = '{blocker}' AND status = 1"
        wait_until(lambda: system.rows(begun) and not client.llen(line), 20, "the others to be in its window")
    dropping = system.points / "submit.publishing"
    dropping.write_text("error 100%")
    try:
        return {key: system.submit(number, key, 0.0, "single") for key, number in keys.items()}
    finally:
        dropping.unlink()


def redis_url(system: System) -> str:
    environ = Path(f"/proc/{system.headway.pid_of('utility')}/environ").read_bytes().split(b"\0")
    return next(one for one in environ if one.startswith(b"HEADWAY_REDIS_URL=")).decode().partition("=")[2]


def ends(system: System, ids: dict[str, str], keys: dict[str, int]) -> None:
    """Every prediction has succeeded with its own square, at the receiver and in SQL."""
    events = ("prediction.started", "prediction.succeeded")
    owed = {(id_, event) for id_ in ids.values() for event in events}
    heard: dict[tuple[str, str], set[str]] = defaultdict(set)
    bodies: dict[str, Any] = {}
    read = 0

    def all_heard() -> bool:
        nonlocal read
        got = system.receiver.got[read:]
        read += len(got)
        for one in got:
            heard[one.event["data"]["id"], one.event["type"]].add(one.id)
            assert bodies.setdefault(one.id, one.event) == one.event
        return owed <= heard.keys()

    wait_until(all_heard, RECOVERED_WITHIN_S, "every event to be received")
    with httpx.Client(base_url=system.headway.data_url, timeout=10) as client:
        for key, id_ in ids.items():
            answer = wait_until(lambda id_=id_: read_of(client, id_), 20, "the API to answer")  # type: ignore[misc]
            assert (answer["status"], answer["output"]) == ("succeeded", keys[key] ** 2)
            end = next(iter(heard[id_, "prediction.succeeded"]))
            assert bodies[end]["data"]["output"] == answer["output"]
    ours = "', '".join(ids.values())
    deliveries = wait_until(lambda: settled(system, ours), 20, "the deliveries to be recorded")
    assert sorted(deliveries) == sorted((*one, id_) for one in owed for id_ in heard[one])
    assert len(deliveries) == len(owed)


def read_of(client: httpx.Client, id_: str) -> Any:
    try:
        answer = client.get(f"/v1/predictions/{id_}")
    except httpx.TransportError:
        return None
    return answer.json() if answer.status_code == 200 else None


def settled(system: System, ids: str) -> list[Any]:
    """(prediction, event, webhook-id) of all that was owed, once none is pending and no claim is open."""
    pending = f"SELECT count(*) FROM deliveries WHERE prediction_id IN ('{ids}') AND state = 0"
    if system.rows(pending)[0][0] or system.rows("SELECT count(*) FROM claims")[0][0]:
        return []
    owed = f"SELECT prediction_id, event, id FROM deliveries WHERE prediction_id IN ('{ids}')"
    return [(str(prediction), event, id_) for prediction, event, id_ in system.rows(owed)]
