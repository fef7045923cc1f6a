"""The operator's page over HTTP: what it is made of, who may look, and that its numbers are those of the store."""

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psycopg
import pytest

from headway.errors import ItemCode, ItemError
from headway.keys import new_token
from headway.manifest import parse
from headway.registry import DeviceStats, Stats, Traffic
from headway.testing import wait_until
from headway.versions import Found
from storage.keys import Keys
from storage.migrate import upgrade
from storage.models import Models
from storage.routes import Routes
from storage.workers import Served

if TYPE_CHECKING:
    from tests.integration.over_http.conftest import Api, Stack

HOSTILE = "</script><img src=x onerror=alert(1)>\u2028\ndata: {}\n\n"

FILES = {
    "/ui": "text/html; charset=utf-8",
    "/ui/page.css": "text/css; charset=utf-8",
    "/ui/page.js": "text/javascript; charset=utf-8",
    "/ui/elements.js": "text/javascript; charset=utf-8",
}


def _lines(response: httpx.Response) -> Iterator[str]:
    """As events have them: httpx takes more than LF for the end of a line."""
    rest = ""
    for piece in response.iter_text():
        *whole, rest = (rest + piece).split("\n")
        yield from whole


class Watching:
    """An open stream of the page's."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = _lines(response)

    def next(self) -> tuple[int, dict[str, Any]]:
        """(number, snapshot) of the next event. Raises StopIteration where the stream has ended."""
        event: dict[str, str] = {}
        while True:
            line = next(self._lines)
            if line:
                name, _, value = line.partition(": ")
                assert name not in event, "an event has no field twice"
                event[name] = value
            elif "data" in event:
                assert event["event"] == "overview"
                snapshot: dict[str, Any] = json.loads(event["data"])
                return int(event["id"]), snapshot
            else:
                event = {}

    def until(self, true: Callable[[dict[str, Any]], Any], what: str) -> dict[str, Any]:
        """The first snapshot of which it is true."""
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            _, snapshot = self.next()
            if true(snapshot):
                return snapshot
        raise TimeoutError(f"no snapshot with {what}; the last is {snapshot}")


@contextlib.contextmanager
def watching(api: "Api", token: str | None = None) -> Iterator[Watching]:
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    with httpx.stream("GET", f"{api.control_url}/ui/events", headers=headers, timeout=20) as response:
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/event-stream"
        yield Watching(response)


def version_of(snapshot: dict[str, Any], model: str, version: str) -> dict[str, Any]:
    (found,) = [one for one in snapshot["models"] if one["name"] == model]
    (row,) = [one for one in found["versions"] if one["version"] == version]
    return dict(row)


@pytest.mark.parametrize(("path", "type_"), FILES.items(), ids=FILES)
def test_the_page_runs_nothing_but_its_own_files_and_is_asked_for_anew(api: "Api", path: str, type_: str) -> None:
    answer = httpx.get(api.control_url + path)
    assert (answer.status_code, answer.headers["content-type"]) == (200, type_)
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    assert len(answer.content) < 32_000
    tag = {"if-none-match": answer.headers["etag"]}
    again = httpx.get(api.control_url + path, headers=tag)
    assert (again.status_code, again.content) == (304, b"")
    assert httpx.head(api.control_url + path).headers["content-length"] == str(len(answer.content))
    assert httpx.post(api.control_url + path).status_code == 405
    assert httpx.get(api.url + path).status_code == 404  # it is the control plane's


def test_the_page_is_open_and_what_it_shows_is_for_operators_until_the_api_drains(
    new_stack: Callable[..., "Stack"], sqlite_url: str
) -> None:
    admin, reader = new_token(), new_token()
    stack = new_stack(sqlite_url, HEADWAY_BOOTSTRAP_KEY=admin)
    Keys(stack.database).add(reader, tenant_id="default", scopes=("predict", "read"), name="reader")
    events = f"{stack.api.control_url}/ui/events"

    def asked(token: str) -> int:
        return httpx.get(events, headers={"authorization": f"Bearer {token}"}).status_code

    for path in FILES:
        assert httpx.get(stack.api.control_url + path).status_code == 200
    assert httpx.get(events).status_code == 401
    assert httpx.get(f"{events}?key={admin}").status_code == 401
    assert asked(new_token()) == 401
    wait_until(lambda: asked(reader) == 403, 10, "the reader's key to be known")
    assert httpx.get(events, headers={"origin": "https://elsewhere.example"}).status_code == 403
    with watching(stack.api, admin) as page:
        assert page.next()[1]["sql"] is True
        began = time.monotonic()
        os.kill(stack.api.process.pid, signal.SIGTERM)
        with pytest.raises(StopIteration):
            page.until(lambda s: False, "nothing")
        assert time.monotonic() - began < 5
    assert stack.api.process.wait(10) == 0


def test_what_is_shown_is_what_was_done(new_stack: Callable[..., "Stack"], sqlite_url: str) -> None:
    stack = new_stack(sqlite_url, HEADWAY_FLOWER_PORT="5555")
    database, worker = stack.database, stack.worker
    models, routes = Models(database), Routes(database)
    models.register(
        Found(
            model="echo",
            version="3",
            path=Path("/nowhere"),
            manifest=parse({"aliases": {"stable": 1}}),
            sha256="ab" * 32,
        )
    )
    for version in ("1", "2"):
        models.place(worker.id, "cpu", "echo", version, "ready", memory_bytes=1000)
    models.place(worker.id, "cpu", "echo", "3", "unloaded", reason="nobody asks for it")
    routes.split("echo", Traffic(versions={"1": 3, "2": 1, "3": 6}, shadow=("3",), sticky="user"))
    routes.pause("echo", True)
    routes.point("echo", "canary", "2")
    stats = Stats(failed=1, seconds={50: 9, 60: 1}, sizes={1: 4, 32: 2})
    served = Served(model="echo", version="2", ended=10, rate=2.5, stats=stats)
    worker.workers.beat(
        worker.id, [served], DeviceStats(busy=0.5, memory_bytes=2000, memory_budget=4000, loads=3, unloads=1)
    )
    for priority in (0, 5, 5, 9):
        assert stack.api.submit(1, priority=priority, version="1").status_code == 202
    failing = [stack.api.submit(HOSTILE).json()["id"] for _ in range(2)]
    worker.run(*failing, answer=lambda body: ItemError(ItemCode.MODEL_ERROR, HOSTILE))
    lines = {"content": '{"input": 1}\n' * 3, "headers": {"content-type": "application/jsonl"}}
    batch = stack.api.client.post("/v1/batches?model=echo&version=2", **lines).json()  # type: ignore[arg-type]

    with watching(stack.api) as page:
        shown = page.until(lambda s: s["failures"] and version_of(s, "echo", "2")["ended"] == 10, "all of it")
    assert (shown["headway"], shown["sql"], shown["broker"], shown["workers"]) == ("0.1.0", True, True, 1)
    assert shown["links"] == {"flower": ":5555/", "docs": ":8000/docs", "metrics": "/metrics"}
    totals = shown["totals"]
    assert (totals["rate"], totals["queued"], totals["failed_last_hour"]) == (2.5, 7, 2)
    assert 0 < totals["oldest_age_seconds"] < 30
    (echo,) = [one for one in shown["models"] if one["name"] == "echo"]
    assert (echo["paused"], echo["sticky"], echo["split"]) == (True, "user", True)
    assert [one["version"] for one in echo["versions"]] == ["3", "2", "1"]
    first, second, third = (version_of(shown, "echo", version) for version in "123")
    assert [(lane["lane"], lane["depth"]) for lane in first["lanes"]] == [
        ("0-2", 1),
        ("3-6", 2),
        ("7-9", 1),
        ("batches", 0),
    ]
    assert [lane["depth"] for lane in second["lanes"]] == [0, 0, 0, 3]
    assert first["lanes"][3]["oldest_age_seconds"] is None
    assert (first["share"], second["share"], third["share"]) == (0.75, 0.25, 0.0)  # the third was never warm
    assert (third["state"], third["reason"], third["shadow"], third["released"]) == (
        "unloaded", "nobody asks for it", True, False)  # fmt: skip
    assert (third["sha256"], third["weight"], second["aliases"]) == ("ab" * 6, 6, ["canary"])
    assert first["aliases"] == ["stable"]
    assert (second["ended"], second["failed"], second["rate"], second["devices"]) == (10, 1, 2.5, ["cpu"])
    assert 0.7 < second["p50_seconds"] < 1.1
    assert 4 < second["p99_seconds"] < 7
    (device,) = shown["devices"]
    assert (device["busy"], device["memory_bytes"], device["memory_budget"]) == (0.5, 2000, 4000)
    assert (device["loads"], device["unloads"], device["batch_sizes"]) == (3, 1, [[1, 4], [32, 2]])
    assert [(one["model"], one["version"]) for one in device["loaded"]] == [("echo", "1"), ("echo", "2")]
    assert [one["id"] for one in shown["failures"]] == failing[::-1]
    assert {(one["code"], one["message"], one["attempt"]) for one in shown["failures"]} == {("model_error", HOSTILE, 1)}
    assert [(one["id"], one["status"]) for one in shown["batches"]] == [(batch["id"], "in_progress")]


def test_however_many_watch_there_is_one_collection_a_second_and_without_watchers_none(api: "Api") -> None:
    with watching(api) as one, watching(api) as two, watching(api) as three:
        began = time.monotonic()
        first = one.next()[0]
        numbers = [page.next()[0] for page in (two, three) for _ in range(3)]
        last = max(numbers)
        assert last - first <= time.monotonic() - began + 1
        assert {number - first for number in numbers} <= {0, 1, 2, 3}
    # A condition is not to be waited for here: that nothing happens while nobody looks shows in the next number.
    left = time.monotonic()
    wait_until(lambda: time.monotonic() - left > 2.2)
    with watching(api) as again:
        assert again.next()[0] <= last + 2


def test_without_sql_the_last_numbers_stay_and_come_back_to_life(
    new_stack: Callable[..., "Stack"], second_postgres_server: Any
) -> None:
    server = second_postgres_server
    server.ensure_postgres_running()
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE watched")
    upgrade(server.get_uri("watched"))
    stack = new_stack(server.get_uri("watched"))
    assert stack.api.submit(1).status_code == 202

    def allowed(whether: str) -> None:
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute(f"ALTER DATABASE watched ALLOW_CONNECTIONS {whether}")
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'watched'")

    with watching(stack.api) as page:
        before = page.until(lambda s: s["totals"] and s["totals"]["queued"] == 1, "one queued")
        allowed("false")
        try:
            away = page.until(lambda s: not s["sql"], "SQL away")
        finally:
            allowed("true")
        assert (away["totals"]["queued"], away["broker"]) == (1, True)
        assert before["as_of"] <= away["as_of"] < away["at"]
        back = page.until(lambda s: s["sql"], "SQL back")
        assert back["as_of"] > away["as_of"]
