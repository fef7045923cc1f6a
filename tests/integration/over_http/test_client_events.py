"""The events of a prediction as clients and `headway watch` follow them, over lines that break anywhere."""

import json
import os
import pty
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

import headway
from headway.client import Emitted, Progressed, Transition
from headway.clock import now_us
from headway.errors import ItemCode, ItemError
from headway.reports import Report
from headway.testing import wait_until

if TYPE_CHECKING:
    from tests.integration.over_http.conftest import Api, PlayedWorker, Proxy, Stack

Connect = Callable[..., Any]
APART = 1_000_000
CUTS = 20
REPORTS = 120


def reported(numbers: Sequence[int]) -> list[Report]:
    """Of the first attempt: in turn a fraction and a partial output."""
    at = now_us()
    return [
        Report(1, n, "progress", at, b'{"fraction": %f, "message": "step %d"}' % (n / REPORTS, n))
        if n % 2
        else Report(1, n, "output", at, json.dumps({"part": n}).encode())
        for n in numbers
    ]


def ids(events: list[Any]) -> list[int]:
    return [event.id for event in events]


#: Of a prediction that was queued, reported and ended.
ALL = [0, *range(APART, APART + REPORTS + 1), 2 * APART]


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize("seed", [1, 2])
def test_a_line_cut_twenty_times_at_random_bytes_shows_every_event_once(
    connect: Connect, proxy: "Proxy", worker: "PlayedWorker", seed: int
) -> None:
    id_ = connect(proxy.url).submit("echo", 7).id
    claim = worker.claim(id_)
    worker.report(id_, *reported(range(1, 61)))
    chance = random.Random(seed)
    proxy.plan.extend(chance.randint(0, 700) for _ in range(CUTS))

    def go_on() -> None:
        assert proxy.cut.wait(20)
        worker.report(id_, *reported(range(61, REPORTS + 1)))
        worker.finish(claim, id_)

    with ThreadPoolExecutor(1) as meanwhile:
        rest = meanwhile.submit(go_on)
        events = list(connect(proxy.url).events(id_))
        rest.result(20)
    assert not proxy.plan
    assert ids(events) == ALL
    assert [type(event) for event in events[2:4]] == [Progressed, Emitted]
    assert (events[2].message, events[3].output) == ("step 1", {"part": 2})
    assert (events[0].status, events[1].status, events[-1].status) == ("queued", "in_progress", "succeeded")
    assert events[-1].prediction.output == 7


@pytest.mark.usefixtures("idle")
def test_an_api_that_is_killed_and_comes_back_is_followed_on(
    client: Any, stack: "Stack", worker: "PlayedWorker"
) -> None:
    job = client.submit("echo", 7)
    claim = worker.claim(job.id)
    worker.report(job.id, *reported(range(1, 3)))
    events = []
    for event in job.events():
        events.append(event)
        if event.id == APART + 2:
            os.kill(stack.api.process.pid, signal.SIGKILL)
            stack.api.process.wait()
            stack.api.start()
            worker.report(job.id, *reported(range(3, REPORTS + 1)))
            worker.finish(claim, job.id)
    assert ids(events) == ALL


@pytest.mark.usefixtures("idle")
def test_events_begin_after_what_is_known_and_never_end_in_an_end_before_a_retry(
    client: Any, worker: "PlayedWorker"
) -> None:
    job = client.submit("echo", 7)
    worker.run(job.id, answer=lambda _: ItemError(ItemCode.MODEL_ERROR, "no good"))
    job.retry()
    worker.run(job.id)
    events = list(job.events())
    assert [event.status for event in events] == [
        "queued", "in_progress", "failed", "queued", "in_progress", "succeeded"
    ]  # fmt: skip
    assert ids(list(job.events(after=events[2].id))) == ids(events)[3:]
    assert list(job.events(after=events[-1].id)) == []
    with pytest.raises(headway.ApiError, match="prediction_not_found"):
        list(client.events("nobody"))


@pytest.mark.usefixtures("idle")
def test_who_leaves_before_the_end_frees_the_line(client: Any, api: "Api", worker: "PlayedWorker") -> None:
    job = client.submit("echo", 7)
    events = job.events()
    assert isinstance(next(events), Transition)
    events.close()
    worker.run(job.id)
    assert job.result(timeout=20) == 7


def watch(api: "Api", id_: str, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "launch", "watch", id_, "--url", api.url]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


@pytest.mark.usefixtures("idle")
def test_watch_prints_a_line_for_each_event_and_at_last_the_output(api: "Api", worker: "PlayedWorker") -> None:
    id_ = api.submit({"n": 7}).json()["id"]
    with watch(api, id_) as watching:
        assert watching.stdout is not None
        assert watching.stdout.readline().endswith(" queued\n")
        claim = worker.claim(id_)
        worker.report(id_, *reported(range(1, 3)))
        worker.finish(claim, id_)
        out, err = watching.communicate(timeout=30)
    assert [line.partition(" ")[2] for line in out.splitlines()[:-1]] == [
        "in_progress attempt 1",
        "progress 1% step 1",
        'output {"part": 2}',
        "succeeded",
    ]
    assert out.splitlines()[-1] == '{"n": 7}'
    assert (watching.returncode, err) == (0, "")


@pytest.mark.usefixtures("idle")
def test_watch_ends_with_one_where_there_is_no_success(api: "Api", worker: "PlayedWorker") -> None:
    failed, canceled = (api.submit().json()["id"] for _ in range(2))
    worker.run(failed, answer=lambda _: ItemError(ItemCode.MODEL_ERROR, "no good"))
    api.client.post(f"/v1/predictions/{canceled}/cancel").raise_for_status()
    for id_, last in [(failed, "failed: no good [model_error]"), (canceled, "canceled")]:
        with watch(api, id_) as watching:
            out, err = watching.communicate(timeout=30)
        assert out.splitlines()[-1].partition(" ")[2] == last
        assert (watching.returncode, err) == (1, "")
    with watch(api, "nobody") as watching:
        assert "prediction_not_found" in watching.communicate(timeout=30)[1]
    assert watching.returncode == 2


@pytest.fixture
def terminal() -> Iterator[tuple[int, Callable[[], str]]]:
    """(one end of a terminal, what was drawn on it)."""
    ours, theirs = pty.openpty()
    drawn: list[bytes] = []

    def read() -> None:
        while data := os.read(ours, 65536):
            drawn.append(data)
            if data.endswith(b"\0"):
                return

    reader = threading.Thread(target=read)
    reader.start()

    def all_of_it() -> str:
        os.write(theirs, b"\0")
        reader.join(10)
        return b"".join(drawn).decode()

    yield theirs, all_of_it
    os.write(theirs, b"\0")
    reader.join(10)
    os.close(theirs)
    os.close(ours)


@pytest.mark.usefixtures("idle")
def test_a_terminal_sees_a_bar_while_it_waits_and_stdout_has_the_output_alone(
    api: "Api", worker: "PlayedWorker", terminal: tuple[int, Callable[[], str]]
) -> None:
    screen, drawn = terminal
    command = [sys.executable, "-m", "launch", "submit", "echo", '"hello"', "--wait", "--url", api.url]
    environ = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=screen, text=True, env=environ) as submitting:
        (id_,) = wait_until(worker.queued, 20)
        claim = worker.claim(id_)
        worker.report(id_, *reported(range(1, REPORTS // 2)))
        wait_until(lambda: api.client.get(f"/v1/predictions/{id_}").json()["status"] == "in_progress")
        worker.finish(claim, id_)
        out, _ = submitting.communicate(timeout=30)
    assert (submitting.returncode, out) == (0, '"hello"\n')
    assert "━" in drawn()
