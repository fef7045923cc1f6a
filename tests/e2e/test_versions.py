"""Versions that come, share traffic, change places, pause and go while predictions are submitted: whole processes."""

import asyncio
import json
import re
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from psycopg import sql

from headway.clock import new_id
from headway.running import RunningHeadway
from headway.testing import wait_until
from launch.cli import main

#: Two seconds to load, but for the first version; says when it was ready, and refuses to load half of itself.
SLOW_TO_LOAD = """
import time
from headway import Model

class Slow(Model):
    def load(self, context):
        if {version} > 1:
            assert len((context.path / "weights.bin").read_bytes()) == 600_000
            time.sleep(2.0)
        self.ready = time.time()

    def predict(self, inputs):
        return [{{"version": "{version}", "ready": self.ready}}] * len(inputs)
"""

#: Stands still while a file called `gate` lies beside the models folder.
SAYS = """
import time
from headway import Model

class Says(Model):
    def load(self, context):
        self.gate = context.path.parents[2] / "gate"

    def predict(self, inputs):
        while self.gate.exists():
            time.sleep(0.01)
        return ["{version}"] * len(inputs)
"""


def put(models: Path, model: str, version: int, source: str = SAYS) -> None:
    folder = models / model / str(version)
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(source.format(version=version))


TOML = """
[versions]
policy = "all"
[aliases]
stable = 1
[batching]
max_batch_size = 32
max_queue = 100000
"""


@pytest.fixture(scope="module")
def database_url(postgres_server: Any) -> str:
    name = f"versions_{new_id()}"
    with psycopg.connect(postgres_server.get_uri(), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    url: str = postgres_server.get_uri(name)
    return url


@pytest.fixture(scope="module")
def headway(tmp_path_factory: pytest.TempPathFactory, database_url: str) -> Iterator[RunningHeadway]:
    folder = tmp_path_factory.mktemp("versions")
    models = folder / "models"
    put(models, "fresh", 1, SLOW_TO_LOAD)
    for version in (1, 2):
        put(models, "says", version)
    (models / "says" / "model.toml").write_text(TOML)
    with RunningHeadway(folder, options=["--database-url", database_url]) as running:
        yield running


def placed(running: RunningHeadway, model: str, version: str) -> list[tuple[str, str | None]]:
    """(state, reason) on each worker."""
    versions = httpx.get(f"{running.data_url}/v1/models/{model}/versions").json()["data"]
    placements = [one["placements"] for one in versions if one["version"] == version]
    return [(place["state"], place["reason"]) for some in placements for place in some]


def states(running: RunningHeadway, model: str, version: str) -> list[str]:
    return [state for state, _ in placed(running, model, version)]


def copy_slowly(version: Path, source: str) -> None:
    """File by file and piece by piece, as over a slow line."""
    version.mkdir()
    (version / "LICENSE").write_text("none\n")
    with (version / "weights.bin").open("wb", buffering=0) as weights:
        for _ in range(6):
            weights.write(b"\0" * 100_000)
            threading.Event().wait(0.1)
    half = len(source) // 2
    with (version / "model.py").open("w") as file:
        file.write(source[:half])
        file.flush()
        threading.Event().wait(0.2)
        file.write(source[half:])


def test_a_version_copied_into_the_folder_under_load_takes_over_when_it_is_warm(headway: RunningHeadway) -> None:
    accepted: list[str] = []
    enough = threading.Event()

    def load() -> None:
        with httpx.Client(base_url=headway.data_url, timeout=30) as client:
            while not enough.wait(0.02):
                answer = client.post("/v1/models/fresh/predictions", json={"input": 1})
                assert answer.status_code == 202, answer.text
                accepted.append(answer.json()["id"])

    with ThreadPoolExecutor() as pool, httpx.Client(base_url=headway.data_url, timeout=30) as client:
        loads = [pool.submit(load) for _ in range(3)]
        try:
            copy_slowly(headway.folder / "models" / "fresh" / "2", SLOW_TO_LOAD.format(version=2))
            wait_until(lambda: states(headway, "fresh", "2") == ["ready"], 20, "the new version to be loaded")
            taken = len(accepted)
            wait_until(lambda: len(accepted) > taken + 100, 20, "work for it")
        finally:
            enough.set()
        for one in loads:
            one.result()
        predictions = [client.get(f"/v1/predictions/{id_}", headers={"Prefer": "wait=10"}).json() for id_ in accepted]

    assert {one["status"] for one in predictions} == {"succeeded"}
    by_version = {version: [one for one in predictions if one["version"] == version] for version in ("1", "2")}
    assert min(len(some) for some in by_version.values()) > 60
    for version, some in by_version.items():
        assert {one["output"]["version"] for one in some} == {version}
    # Nobody who was given the new one waited for its load; nobody who was given the old one noticed it.
    for one in by_version["2"]:
        assert datetime.fromisoformat(one["created_at"]).timestamp() > one["output"]["ready"]
    waits = sorted(one["metrics"]["queue_seconds"] for one in predictions)
    print(f"{len(predictions)} predictions, the longest in the queue for {waits[-1] * 1000:.0f} ms")
    assert waits[-1] < 1.5
    assert [one["version"] for one in predictions[:50]] == ["1"] * 50
    assert len({one["output"]["ready"] for one in predictions}) == 2  # neither was loaded twice


def post_many(url: str, model: str, body: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Sends so many submissions on many connections; what was answered, which is 202 and a prediction.

    A client of a library would take longer for them than everything that is tested.
    """
    host, port = url.removeprefix("http://").split(":")
    content = json.dumps(body).encode()
    request = (
        f"POST /v1/models/{model}/predictions HTTP/1.1\r\nHost: {host}:{port}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    ).encode() + content
    answers: list[dict[str, Any]] = []
    left = iter(range(count))

    async def caller() -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        for _ in left:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 202"), head
            length = re.search(rb"(?i)content-length: (\d+)", head)
            assert length is not None
            answers.append(json.loads(await reader.readexactly(int(length[1]))))
        writer.close()
        await writer.wait_closed()

    async def callers() -> None:
        await asyncio.gather(*(caller() for _ in range(64)))

    asyncio.run(callers())
    return answers


def test_a_canary_of_a_tenth_gets_a_tenth_of_ten_thousand(headway: RunningHeadway, database_url: str) -> None:
    def computed() -> Counter[tuple[str, str]]:
        """(version of the prediction, version that computed it) → how many."""
        query = "SELECT version, output, count(*) FROM predictions WHERE model = 'says' AND status = 3 GROUP BY 1, 2"
        with psycopg.connect(database_url) as connection:
            rows = connection.execute(query).fetchall()
        return Counter({(version, json.loads(bytes(output))): count for version, output, count in rows})

    before = computed()
    traffic = {"versions": {"1": 90, "2": 10}}
    split = httpx.put(f"{headway.control_url}/v1/models/says/traffic", json=traffic, timeout=10)
    assert split.status_code == 200, split.text
    answers = post_many(headway.data_url, "says", {"input": 1}, 10_000)
    accepted = Counter(answer["version"] for answer in answers)
    wait_until(lambda: (computed() - before).total() >= 10_000, 30, "all of them to be computed")

    print(f"accepted {dict(accepted)}, computed {computed() - before}")
    assert computed() - before == {("1", "1"): accepted["1"], ("2", "2"): accepted["2"]}
    assert abs(accepted["2"] - 1_000) <= 10


def test_a_paused_model_and_an_unloaded_version_accept_and_compute_afterwards(
    headway: RunningHeadway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def operate(verb: str, *words: str) -> None:
        command = ["headway", "models", verb, "says", *words, "--admin-url", headway.control_url]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code

    with httpx.Client(base_url=headway.data_url, timeout=30) as client:

        def submit() -> str:
            answer = client.post("/v1/models/says/predictions", json={"input": 1, "version": "1"})
            assert answer.status_code == 202, answer.text
            return str(answer.headers["location"])

        def status(path: str, wait_s: float) -> str:
            return str(client.get(path, headers={"Prefer": f"wait={wait_s}"}).json()["status"])

        def waits_until(verb: str, *words: str) -> None:
            waiting = [submit() for _ in range(20)]
            assert status(waiting[0], 1) == "queued"
            operate(verb, *words)
            assert {status(path, 20) for path in waiting} == {"succeeded"}

        operate("pause")
        # Workers hear of it within a second; what is submitted before that may still run.
        wait_until(lambda: status(submit(), 1) == "queued", 10, "the worker to take nothing more")
        waits_until("resume")
        operate("unload", "1")
        wait_until(lambda: states(headway, "says", "1") == ["unloaded"], 10, "it to be unloaded")
        ((_, reason),) = placed(headway, "says", "1")
        assert "operator" in str(reason)
        waits_until("load", "1")


def test_an_alias_is_moved_there_and_back_with_the_queue_full(headway: RunningHeadway) -> None:
    gate = headway.folder / "gate"
    gate.touch()
    named: dict[str, str] = {}
    alias = f"{headway.control_url}/v1/models/says/aliases/stable"
    with httpx.Client(base_url=headway.data_url, timeout=30) as client:
        for moved, version in enumerate(["1", "2", "1"]):
            depth = client.get("/v1/models/says/queue").json()["depth"]
            assert depth >= moved * (150 - 64)  # all but what stands at the gate, and waits next to it
            assert client.put(alias, json={"version": version}).status_code == 200
            answers = post_many(headway.data_url, "says", {"input": 1, "alias": "stable"}, 150)
            named |= {answer["id"]: version for answer in answers}
        gate.unlink()
        predictions = [client.get(f"/v1/predictions/{id_}", headers={"Prefer": "wait=30"}).json() for id_ in named]

    assert len(predictions) == 450
    assert {one["status"] for one in predictions} == {"succeeded"}
    for one in predictions:
        assert one["version"] == one["output"] == named[one["id"]]
        assert one["alias"] == "stable"


def test_a_version_that_was_replaced_is_unloaded_when_nothing_waits_for_it(headway: RunningHeadway) -> None:
    if not (headway.folder / "models" / "fresh" / "2").exists():  # the first test's, if it ran
        copy_slowly(headway.folder / "models" / "fresh" / "2", SLOW_TO_LOAD.format(version=2))
    wait_until(lambda: states(headway, "fresh", "1") == ["unloaded"], 20, "the old version to go")
