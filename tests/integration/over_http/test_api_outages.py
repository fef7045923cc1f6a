"""The API while Redis or SQL is away, and while it is told to stop."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psycopg
import pytest

from headway.testing import wait_until

if TYPE_CHECKING:
    from tests.integration.over_http.conftest import Api, Stack

UNKNOWN = "01234567-89ab-7def-8123-456789abcdef"


def timed(ask: Callable[[], httpx.Response]) -> tuple[httpx.Response, float]:
    started = time.monotonic()
    response = ask()
    return response, time.monotonic() - started


def test_without_redis_submissions_are_accepted_and_ends_are_found_in_sql(
    new_stack: Callable[..., "Stack"], sqlite_url: str
) -> None:
    stack = new_stack(sqlite_url)
    stack.valkey.stop()
    for _ in range(5):
        response, seconds = timed(stack.api.submit)
        assert response.status_code == 202
        assert seconds < 1
    ready = wait_until(lambda: (r := stack.api.client.get("/ready")).json()["checks"]["broker"] == "down" and r)
    assert ready.status_code == 200  # submissions are accepted
    assert ready.json()["status"] == "degraded"
    id_ = response.json()["id"]
    claim = stack.worker.claim(id_)
    with ThreadPoolExecutor(1) as pool:
        path = f"{stack.api.url}/v1/predictions/{id_}"
        answer = pool.submit(lambda: httpx.get(path, headers={"prefer": "wait=10"}, timeout=20))
        stack.worker.finish(claim, id_, notify=False)
        assert answer.result(20).json()["status"] == "succeeded"

    stack.valkey.start()
    wait_until(lambda: stack.api.client.get("/ready").json()["checks"]["broker"] == "up", 10, "the subscription")
    published = stack.api.metric("headway_api_hints_published_total")
    wait_until(
        lambda: (
            stack.api.submit().status_code == 202 and stack.api.metric("headway_api_hints_published_total") > published
        ),
        10,
        "hints to be published again",
    )


def _processes(server: Any) -> list[int]:
    """The postmaster and all that serve for it."""
    with psycopg.connect(server.get_uri()) as connection:
        backends = connection.execute("SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()").fetchall()
    return [server.get_pid(), *(pid for (pid,) in backends)]


def _alive(pid: int | None) -> bool:
    if pid is None:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _requests(api: "Api") -> dict[str, Callable[[], httpx.Response]]:
    get, post = api.client.get, api.client.post
    return {
        "create": api.submit,
        "create and wait": lambda: post("/v1/models/echo/predictions", json={"input": 1}, headers={"prefer": "wait=5"}),
        "unknown model": lambda: api.submit(model="nope"),
        "predict": lambda: post("/v1/models/echo:predict", json={"instances": [1, 2]}),
        "read": lambda: get(f"/v1/predictions/{UNKNOWN}"),
        "read and wait": lambda: get(f"/v1/predictions/{UNKNOWN}", headers={"prefer": "wait=5"}),
        "models": lambda: get("/v1/models"),
        "model": lambda: get("/v1/models/echo"),
        "versions": lambda: get("/v1/models/echo/versions"),
        "queue": lambda: get("/v1/models/echo/queue"),
        "ready": lambda: get("/ready"),
    }


def _unavailable(name: str, ask: Callable[[], httpx.Response]) -> None:
    response, seconds = timed(ask)
    assert (name, response.status_code) == (name, 503), response.text
    assert response.json()["code"] == "unavailable"
    assert int(response.headers["retry-after"]) >= 1
    assert seconds < 2, name


@pytest.mark.parametrize("how", ["killed", "hanging"])
def test_without_sql_every_route_is_503_within_two_seconds(
    new_stack: Callable[..., "Stack"], second_postgres_server: Any, how: str
) -> None:
    server = second_postgres_server
    server.ensure_postgres_running()
    stack = new_stack(server.get_uri())
    assert stack.api.submit().status_code == 202
    pids = _processes(server)
    for pid in pids:
        os.kill(pid, signal.SIGKILL if how == "killed" else signal.SIGSTOP)
    try:
        requests = _requests(stack.api)
        with ThreadPoolExecutor(len(requests)) as pool:
            for _ in pool.map(_unavailable, requests.keys(), requests.values()):
                pass
        assert stack.api.client.get("/health").status_code == 200
    finally:
        if how == "killed":
            wait_until(lambda: not _alive(server.get_pid()), 10, "PostgreSQL to be gone")
            server.ensure_postgres_running()
        else:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
    wait_until(lambda: stack.api.submit().status_code == 202, 15, "submissions to be accepted again")
    wait_until(lambda: stack.api.client.get("/ready").status_code == 200, 15, "the API to be ready")


def test_before_the_migrations_every_route_is_503(
    new_api: Callable[[str, str], "Api"], redis_url: str, tmp_path: Path
) -> None:
    api = new_api(f"sqlite:///{tmp_path}/empty.db", redis_url)
    assert "schema" in api.client.get("/ready").json()["detail"]
    for name, ask in _requests(api).items():
        _unavailable(name, ask)


def test_a_stopping_api_answers_who_waits_and_is_gone_within_ten_seconds(
    new_stack: Callable[..., "Stack"], sqlite_url: str
) -> None:
    stack = new_stack(sqlite_url)
    api = stack.api
    create = f"{api.url}/v1/models/echo/predictions"
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(httpx.post, create, json={"input": 1}, headers={"prefer": "wait=60"}, timeout=70)
        predicting = pool.submit(httpx.post, f"{api.url}/v1/models/echo:predict", json={"instances": [7]}, timeout=70)
        ids = wait_until(lambda: len(found := stack.worker.queued()) == 2 and found) or []
        started = time.monotonic()
        api.process.send_signal(signal.SIGTERM)
        assert _not_ready(api)
        early: Future[httpx.Response] = waiting
        assert early.result(5).status_code == 202
        assert early.result().json()["status"] == "queued"
        stack.worker.run(*ids)  # what `:predict` asked for may still end in time
        assert predicting.result(10).text == '{"predictions":[7]}'
        assert api.process.wait(10) == 0
        assert time.monotonic() - started < 10

    with socket.create_connection(("127.0.0.1", api.port), timeout=20) as connection:  # the supervisor's backlog
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        api.start()
        assert connection.recv(100).startswith(b"HTTP/1.1 200")


def _not_ready(api: "Api") -> bool:
    """For a moment after the signal it still answers, to say that it is not ready."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            if api.client.get("/ready").status_code == 503:
                return True
        except httpx.HTTPError:
            return False
    return False


def test_an_idle_api_stops_cleanly_on_an_interrupt(new_stack: Callable[..., "Stack"], sqlite_url: str) -> None:
    stack = new_stack(sqlite_url)
    stack.api.process.send_signal(signal.SIGINT)
    assert stack.api.process.wait(10) == 0


def test_the_api_refuses_to_listen_beyond_loopback(sqlite_url: str, redis_url: str) -> None:
    refused = subprocess.run(
        [sys.executable, "-m", "launch", "api", "--host", "0.0.0.0", "--port", "0", "--admin-port", "0"],
        env={"HEADWAY_DATABASE_URL": sqlite_url, "HEADWAY_REDIS_URL": redis_url, "PATH": ""},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert refused.returncode != 0
    assert "loopback" in refused.stderr
    assert "Traceback" not in refused.stderr
