"""`headway.Client` and `headway.AsyncClient`, one suite for both, on real sockets and over a bad line."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import headway
from headway.client import AsyncClient, Client, Failure, PredictionCanceled, PredictionFailed
from headway.errors import SettingsError
from headway.keys import new_token
from headway.running import free_port

if TYPE_CHECKING:
    from tests.integration.over_http.conftest import Api, PlayedWorker, Proxy, Stack


Connect = Callable[..., Any]


def made(stack: "Stack") -> int:
    """Predictions that were ever accepted."""
    with stack.database.read() as connection:
        return int(connection.exec_driver_sql("SELECT count(*) FROM predictions").scalar_one())


def answer(status: str, *headers: str, body: str = "") -> bytes:
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}", "Connection: close", "", body]
    return "\r\n".join(lines).encode()


@pytest.mark.usefixtures("working")
def test_a_prediction_gives_the_output(client: Any) -> None:
    assert client.predict("echo", {"text": "hé", "n": [1, None, True]}, timeout=20) == {
        "text": "hé",
        "n": [1, None, True],
    }


@pytest.mark.usefixtures("working")
def test_arrays_and_their_scalars_are_sent_as_lists_and_numbers(client: Any) -> None:
    sent = {"x": np.array([[1, 2], [3, 4]], np.float32), "n": np.int64(7), "f": np.float32(0.5)}
    assert client.predict("echo", sent, timeout=20) == {"x": [[1.0, 2.0], [3.0, 4.0]], "n": 7, "f": 0.5}


def test_what_json_has_not_is_refused_before_it_is_sent(client: Any, stack: "Stack") -> None:
    before = made(stack)
    for input_ in (float("nan"), np.array([1.0, np.inf])):
        with pytest.raises(ValueError, match="not JSON compliant"):
            client.submit("echo", input_)
    with pytest.raises(TypeError, match="a set cannot be sent"):
        client.submit("echo", {1})
    assert made(stack) == before


@pytest.mark.usefixtures("idle")
def test_a_job_knows_what_was_seen_of_it_and_gives_the_output_once_there_is_one(
    client: Any, worker: "PlayedWorker"
) -> None:
    job = client.submit("echo", 5, version="1", priority=2, metadata={"who": "me"}, max_attempts=4)
    assert (job.status, job.prediction.version, job.prediction.priority) == ("queued", "1", 2)
    assert (job.prediction.metadata, job.prediction.max_attempts) == ({"who": "me"}, 4)
    worker.finish(worker.claim(job.id, version="1"), job.id)
    assert job.status == "queued"
    assert job.refresh().status == "succeeded"
    assert job.result(timeout=20) == 5
    assert job.prediction.metrics.batch_size == 1
    assert job.prediction.completed_at >= job.prediction.created_at
    assert client.get(job.id) == job.prediction
    assert client.get(job.id, include_input=True).input == 5


@pytest.mark.usefixtures("working")
def test_a_failed_prediction_raises_with_the_reason(client: Any) -> None:
    job = client.submit("echo", "bad")
    with pytest.raises(PredictionFailed, match=r"failed: no good \[model_error\]") as caught:
        job.result(timeout=20)
    assert caught.value.prediction.error == Failure("model_error", "no good", retryable=False)
    assert job.status == "failed"
    assert client.wait(job.id, timeout=20) == caught.value.prediction
    with pytest.raises(headway.NotSucceeded):
        client.predict("echo", "bad", timeout=20)


@pytest.mark.usefixtures("idle")
def test_a_timeout_ends_the_waiting_and_not_the_prediction(client: Any, worker: "PlayedWorker") -> None:
    for timeout in (0.3, 1.2):
        job = client.submit("echo", 1)
        began = time.monotonic()
        with pytest.raises(headway.Timeout, match="is still queued") as caught:
            job.result(timeout=timeout)
        assert timeout <= time.monotonic() - began < timeout + 1
        last = caught.value.prediction
        assert last is not None
        assert (last.id, last.status) == (job.id, "queued")
        assert last.queue is not None  # how far it has come, for whoever gave up
        with pytest.raises(headway.Timeout):
            client.predict("echo", 1, timeout=0.2)
    worker.run(job.id)
    assert job.result(timeout=20) == 1


REFUSED: dict[str, tuple[Callable[[Any], Any], int, str]] = {
    "unknown model": (lambda client: client.submit("nope", 1), 404, "model_not_found"),
    "no model's name": (lambda client: client.submit("echo/../x", 1), 404, "not_found"),
    "unknown version": (lambda client: client.predict("echo", 1, version=9, timeout=20), 404, "version_not_found"),
    "unknown id": (lambda client: client.get("nobody"), 404, "prediction_not_found"),
    "unknown id, awaited": (lambda client: client.wait("nobody", timeout=20), 404, "prediction_not_found"),
    "too large": (lambda client: client.submit("echo", "x" * 3_000_000), 413, "payload_too_large"),
    "no key": (lambda client: client.submit("echo", 1, idempotency_key=""), 422, "validation_failed"),
    "out of range": (lambda client: client.submit("echo", 1, priority=11), 422, "validation_failed"),
}


@pytest.mark.parametrize(("call", "status", "code"), REFUSED.values(), ids=REFUSED)
def test_what_the_server_refuses_raises_with_its_code(
    client: Any, call: Callable[[Any], Any], status: int, code: str
) -> None:
    with pytest.raises(headway.ApiError) as caught:
        call(client)
    assert (caught.value.status, caught.value.code) == (status, code)
    assert caught.value.request_id
    assert f"[{status} {code}]" in str(caught.value)


def test_a_refusal_says_where_the_mistake_is(client: Any) -> None:
    with pytest.raises(headway.ApiError, match=r"/priority") as caught:
        client.submit("echo", 1, priority=11)
    assert caught.value.errors[0]["pointer"] == "/priority"
    assert caught.value.errors[0]["detail"] == caught.value.detail


def test_the_same_key_is_the_same_prediction(client: Any) -> None:
    key = 'order "7" \\ Ω'.encode().hex()
    first = client.submit("echo", {"a": 1}, idempotency_key=key)
    assert client.submit("echo", {"a": 1}, idempotency_key=key).id == first.id
    with pytest.raises(headway.ApiError) as caught:
        client.submit("echo", {"a": 2}, idempotency_key=key)
    assert caught.value.code == "idempotency_key_reused"
    odd = client.submit("echo", 1, idempotency_key='say "hi" \\')
    assert client.submit("echo", 1, idempotency_key='say "hi" \\').id == odd.id
    with pytest.raises(ValueError, match="printable"):
        client.submit("echo", 1, idempotency_key="a\nb")


@pytest.mark.usefixtures("working")
@pytest.mark.parametrize("allowed", [-1, 0, 40])
def test_answers_that_are_lost_make_no_second_prediction(
    connect: Connect, proxy: "Proxy", stack: "Stack", allowed: int
) -> None:
    before = made(stack)
    proxy.plan.extend([allowed] * 3)
    id_ = connect(proxy.url).submit("echo", "once").id
    proxy.plan.extend([allowed] * 2)  # for the next client: the one before keeps the connection that went well
    assert connect(proxy.url).wait(id_, timeout=20).output == "once"
    assert made(stack) == before + 1

    proxy.plan.extend([allowed] * 3)
    assert connect(proxy.url).predict("echo", "twice", timeout=20) == "twice"
    assert made(stack) == before + 2
    assert not proxy.plan


@pytest.mark.parametrize("status", ["429 Too Many Requests", "502 Bad Gateway", "503 No", "504 Gateway Timeout"])
def test_a_passing_refusal_is_tried_again_when_the_server_says(connect: Connect, proxy: "Proxy", status: str) -> None:
    client = connect(proxy.url)
    proxy.plan.extend([answer(status), answer(status, "Retry-After: 1", body="<html>busy</html>")])
    began = time.monotonic()
    assert client.submit("echo", 1).status == "queued"
    assert 1.1 <= time.monotonic() - began < 5


def test_a_refusal_that_lasts_longer_than_the_callers_time_is_told_at_once(connect: Connect, proxy: "Proxy") -> None:
    client = connect(proxy.url, timeout=5)
    proxy.plan.append(answer("429 Too Many Requests", "Retry-After: 60"))
    began = time.monotonic()
    with pytest.raises(headway.ApiError, match="Too Many Requests") as caught:
        client.submit("echo", 1)
    assert (caught.value.status, caught.value.retry_after_s) == (429, 60)
    assert time.monotonic() - began < 3


def test_where_nobody_answers_it_says_so_after_its_retries(connect: Connect) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(headway.Unreachable, match=f"no answer from {url}"):
        connect(url, retries=1).submit("echo", 1)
    with pytest.raises(headway.Timeout, match="no answer in time"):
        connect(url).predict("echo", 1, timeout=0.5)


def test_a_line_that_falls_silent_is_left_when_the_callers_time_is_over(connect: Connect, proxy: "Proxy") -> None:
    proxy.held = True
    proxy.plan.extend([0] * 9)
    began = time.monotonic()
    with pytest.raises(headway.Timeout):
        connect(proxy.url, timeout=1.5).submit("echo", 1)
    assert 0.5 < time.monotonic() - began < 5


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://x", "http://", "localhost"])
def test_a_url_that_is_none_is_refused(connect: Connect, url: str) -> None:
    with pytest.raises(SettingsError, match="URL"):
        connect(url)


def test_url_and_key_come_from_the_environment(
    connect: Connect,
    new_stack: Callable[..., "Stack"],
    sqlite_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key = new_token()
    guarded = new_stack(sqlite_url, HEADWAY_BOOTSTRAP_KEY=key)
    with pytest.raises(headway.ApiError, match="unauthenticated"):
        connect(guarded.api.url).submit("echo", 1)
    assert connect(guarded.api.url, key).submit("echo", 1).status == "queued"

    monkeypatch.setenv("HEADWAY_URL", guarded.api.url)
    (tmp_path / "key").write_text(f"{key}\n")
    monkeypatch.setenv("HEADWAY_API_KEY_FILE", str(tmp_path / "key"))
    assert connect().submit("echo", 1).status == "queued"
    monkeypatch.setenv("HEADWAY_API_KEY", "line\nbreak")
    with pytest.raises(SettingsError, match="key"):
        connect()


@pytest.mark.usefixtures("working")
def test_threads_may_share_a_client(api: "Api") -> None:
    with Client(api.url) as client, ThreadPoolExecutor(16) as callers:
        answers = callers.map(lambda number: client.predict("echo", number, timeout=30), range(100))
        assert list(answers) == list(range(100))


@pytest.mark.usefixtures("working")
def test_hundreds_of_tasks_may_share_a_client(api: "Api") -> None:
    async def run() -> list[Any]:
        async with AsyncClient(api.url) as client:
            return await asyncio.gather(*(client.predict("echo", number, timeout=60) for number in range(400)))

    assert asyncio.run(run()) == list(range(400))


@pytest.mark.usefixtures("idle")
def test_a_call_that_is_canceled_while_others_wait_leaves_them_alone(api: "Api", worker: "PlayedWorker") -> None:
    async def run() -> list[Any]:
        async with AsyncClient(api.url) as client:
            job = await client.submit("echo", 7)
            waiting = [asyncio.create_task(job.result()) for _ in range(150)]
            await asyncio.sleep(0)
            for each in waiting[::2]:
                each.cancel()
            worker.run(job.id)
            return await asyncio.gather(*waiting, return_exceptions=True)

    results = asyncio.run(run())
    assert results[1::2] == [7] * 75
    assert {type(each) for each in results[::2]} == {asyncio.CancelledError}


@pytest.mark.usefixtures("idle")
def test_a_job_is_canceled_retried_and_deleted(client: Any, worker: "PlayedWorker") -> None:
    job = client.submit("echo", 1)
    assert job.cancel().status == job.status == "canceled"
    assert job.cancel().status == "canceled"
    with pytest.raises(PredictionCanceled, match="was canceled") as caught:
        job.result(timeout=20)
    assert caught.value.prediction == job.prediction
    assert job.retry().status == job.status == "queued"
    with pytest.raises(headway.ApiError, match="not_terminal"):
        job.delete()
    worker.run(job.id)
    assert job.result(timeout=20) == 1
    with pytest.raises(headway.ApiError, match="already_terminal"):
        job.cancel()
    with pytest.raises(headway.ApiError, match="not_retryable"):
        client.retry(job.id)
    job.delete()
    with pytest.raises(headway.ApiError, match="prediction_purged") as gone:
        client.get(job.id)
    assert gone.value.status == 410


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize("allowed", [-1, 0])
def test_verbs_whose_answer_is_lost_are_done_once(
    connect: Connect, proxy: "Proxy", worker: "PlayedWorker", allowed: int
) -> None:
    id_ = connect(proxy.url).submit("echo", 1).id
    proxy.plan.append(allowed)
    assert connect(proxy.url).cancel(id_).status == "canceled"
    proxy.plan.append(allowed)
    assert connect(proxy.url).retry(id_).status == "queued"
    worker.run(id_)
    proxy.plan.append(allowed)
    connect(proxy.url).delete(id_)
    proxy.plan.append(allowed)
    with pytest.raises(headway.ApiError, match="prediction_purged"):
        connect(proxy.url).wait(id_, timeout=20)


def test_a_list_goes_through_all_pages_newest_first(client: Any, api: "Api") -> None:
    ids = [api.submit(number, version="1").json()["id"] for number in range(105)]
    listed = list(client.list(model="echo", version=1, status="queued"))
    assert [each.id for each in listed[:105]] == ids[::-1]
    assert {(each.model, each.version, each.status) for each in listed} == {("echo", "1", "queued")}
    assert len({each.id for each in listed}) == len(listed)
    assert [each.id for each in client.list(limit=3)] == ids[:-4:-1]
    assert list(client.list(model="pair", status="canceled")) == []
    with pytest.raises(headway.ApiError, match="validation_failed"):
        list(client.list(status="sleeping"))


SUBMITTER = """
import sys, headway
with headway.Client(sys.argv[1]) as client:
    print(client.submit("echo", {"order": 7}, idempotency_key=sys.argv[2]).id)
"""


@pytest.mark.parametrize("command", ["library", "command line"])
def test_a_client_killed_between_submit_and_answer_and_started_again_makes_one_prediction(
    proxy: "Proxy", stack: "Stack", command: str
) -> None:
    key, before = f"order-7-{command}", made(stack)
    arguments = {
        "library": ["-c", SUBMITTER, proxy.url, key],
        "command line": [
            *("-m", "launch", "submit", "echo", '{"order": 7}'),
            *("--url", proxy.url, "--idempotency-key", key),
        ],
    }[command]
    proxy.held = True
    proxy.plan.append(0)
    killed = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE)
    assert proxy.cut.wait(30)  # the API has answered, and the client has not heard of it
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.communicate()[0] == b""
    assert made(stack) == before + 1

    again = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True, timeout=60)
    assert made(stack) == before + 1
    with Client(stack.api.url) as client:
        assert client.get(again.stdout.strip(), include_input=True).input == {"order": 7}


def test_who_imports_headway_for_a_model_loads_no_http() -> None:
    program = (
        "import sys, headway; heavy = {'httpx', 'numpy', 'torch', 'sqlalchemy'} & set(sys.modules); "
        "assert not heavy, heavy; headway.Client; assert 'httpx' in sys.modules and 'numpy' not in sys.modules; "
        "assert not {'api', 'storage', 'workers', 'launch'} & set(sys.modules); "
        "assert hasattr(headway, 'AsyncClient') and not hasattr(headway, 'nothing')"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
