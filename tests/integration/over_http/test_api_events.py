"""The events of a prediction as a client follows them, over connections that end anywhere."""

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import redis
import redis.asyncio

from api.events import EventStream
from api.service import Service
from headway import notices, reports
from headway.clock import new_id, now_us
from headway.errors import ItemCode, ItemError
from headway.reports import Report
from headway.settings import Settings
from headway.testing import new_prediction, wait_until
from headway.types import Outcome
from storage.returning import Returned
from storage.running import Finished

if TYPE_CHECKING:
    from tests.integration.over_http.conftest import Api, PlayedWorker, Stack

UNKNOWN = "01234567-89ab-7def-8123-456789abcdef"
APART = 1_000_000


class Event(NamedTuple):
    id: int
    kind: str
    data: dict[str, Any]


class Connection:
    """One connection of a client that reads what it likes, in bytes, and takes what came in full."""

    def __init__(self, api: "Api", id_: str, seen: int | str | None = None, **options: int) -> None:
        self.socket = socket.socket()
        for name, value in options.items():
            self.socket.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
        self.socket.settimeout(20)
        self.socket.connect(("127.0.0.1", api.port))
        last = "" if seen is None else f"last-event-id: {seen}\r\n"
        self.socket.sendall(f"GET /v1/predictions/{id_}/events HTTP/1.1\r\nhost: localhost\r\n{last}\r\n".encode())
        self.count = 0  # bytes
        self.head = b""
        self.events: list[Event] = []
        self.comments = 0
        self.ended = False  # as it should
        self._raw = b""
        self._chunk = 0  # what of the present chunk, with the end of its line, is yet to come
        self._text = b""

    def read(self, most: int = 65536) -> None:
        piece = self.socket.recv(most)
        assert piece, "the connection ended in the middle"
        self.count += len(piece)
        self._raw += piece
        if not self.head:
            self.head, found, self._raw = self._raw.partition(b"\r\n\r\n")
            if not found:
                self.head, self._raw = b"", self.head
                return
            self.ended = self.status == 204
        self._take_chunks()
        *blocks, self._text = self._text.split(b"\n\n")
        self.events += [_event(block) for block in blocks if block.startswith(b"id:")]
        self.comments += sum(block.startswith(b":") for block in blocks)

    def _take_chunks(self) -> None:
        while self._raw:
            if self._chunk:
                taken, self._raw = self._raw[: self._chunk], self._raw[self._chunk :]
                self._text += taken[: max(0, self._chunk - 2)]
                self._chunk -= len(taken)
            else:
                size, found, rest = self._raw.partition(b"\r\n")
                if not found:
                    return
                self._raw, self._chunk = rest, int(size, 16) + 2
                self.ended = size == b"0"

    @property
    def status(self) -> int:
        """0 where not even that has come."""
        return int(self.head.split(b" ", 2)[1]) if self.head else 0

    def read_bytes(self, count: int) -> None:
        while self.count < count and not self.ended:
            self.read(count - self.count)

    def until(self, enough: Callable[[list[Event]], bool]) -> list[Event]:
        while not enough(self.events):
            assert not self.ended, self.events
            self.read()
        return self.events

    def all(self) -> list[Event]:
        while not self.ended:
            self.read()
        return self.events

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def _event(block: bytes) -> Event:
    fields = dict(line.split(b": ", 1) for line in block.split(b"\n"))
    assert set(fields) == {b"id", b"event", b"data"}
    return Event(int(fields[b"id"]), fields[b"event"].decode(), json.loads(fields[b"data"]))


def everything(api: "Api", id_: str) -> list[Event]:
    """What a client sees who asks now for the first time and stays to the end."""
    with Connection(api, id_) as connection:
        return connection.all()


def words(events: list[Event]) -> list[Any]:
    """Statuses, fractions and partial outputs, in order."""
    return [
        next(event.data[name] for name in ("status", "fraction", "output") if name in event.data) for event in events
    ]


def said(attempt: int, n: int, value: Any = None) -> Report:
    """A fraction as progress, anything else as a partial output."""
    if isinstance(value, float):
        return Report(attempt, n, "progress", now_us(), json.dumps({"fraction": value, "message": f"{n}"}).encode())
    return Report(attempt, n, "output", now_us(), json.dumps(n if value is None else value).encode())


@pytest.fixture
def submitted(api: "Api") -> str:
    id_: str = api.submit().json()["id"]
    return id_


def has(*wanted: Any) -> Callable[[list[Event]], bool]:
    return lambda events: set(map(str, wanted)) <= set(map(str, words(events)))


def test_a_stream_tells_everything_in_order_as_it_happens_and_ends(
    api: "Api", worker: "PlayedWorker", submitted: str
) -> None:
    with Connection(api, submitted) as connection:
        assert words(connection.until(has("queued"))) == ["queued"]
        claim = worker.claim(submitted)
        worker.report(submitted, said(1, 1, 0.25))
        started = time.monotonic()
        assert words(connection.until(has(0.25))) == ["queued", "in_progress", 0.25]
        worker.report(submitted, said(1, 2, "part\r\none"), said(1, 3, 0.5))
        connection.until(has(0.5))
        worker.report(submitted, said(1, 4, "part two"))
        worker.finish(claim, submitted)
        events = connection.all()
        assert time.monotonic() - started < 5
        assert connection.status == 200
        headers = connection.head.lower()
    assert b"content-type: text/event-stream" in headers
    assert b"cache-control: no-store" in headers
    assert b"x-accel-buffering: no" in headers
    assert words(events) == ["queued", "in_progress", 0.25, "part\r\none", 0.5, "part two", "succeeded"]
    kinds = ["transition", "transition", "progress", "output", "progress", "output", "transition"]
    assert [event.kind for event in events] == kinds
    assert [event.id for event in events] == [0, APART, APART + 1, APART + 2, APART + 3, APART + 4, 2 * APART]
    read = api.client.get(f"/v1/predictions/{submitted}").json()
    assert events[0].data == {"status": "queued", "attempt": 0, "at": read["created_at"]}
    assert events[1].data == {"status": "in_progress", "attempt": 1, "at": read["started_at"]}
    assert events[2].data == {"fraction": 0.25, "message": "1", "attempt": 1, "at": events[2].data["at"]}
    assert events[3].data == {"output": "part\r\none", "attempt": 1, "at": events[3].data["at"]}
    assert events[-1].data == {
        "status": "succeeded",
        "attempt": 1,
        "at": read["completed_at"],
        "prediction": read,
    }
    assert everything(api, submitted) == events


def test_who_comes_back_gets_the_rest_and_then_204(api: "Api", worker: "PlayedWorker", submitted: str) -> None:
    claim = worker.claim(submitted)
    worker.report(submitted, said(1, 1), said(1, 2), said(1, 3))
    worker.finish(claim, submitted)
    events = everything(api, submitted)
    for n, event in enumerate(events):
        with Connection(api, submitted, event.id) as connection:
            assert connection.all() == events[n + 1 :]
            assert connection.status == (204 if event is events[-1] else 200)
    path = f"/v1/predictions/{submitted}/events"
    assert api.client.get(path).text.count("\nevent: ") == len(events)
    for beyond in (events[-1].id + 7, 999_999_999_999_999):
        again = api.client.get(path, headers={"last-event-id": str(beyond)})
        assert (again.status_code, again.content) == (204, b"")
        assert "content-length" not in again.headers


def test_an_id_from_nowhere_still_ends_with_the_prediction(api: "Api", worker: "PlayedWorker", submitted: str) -> None:
    with Connection(api, submitted, 777 * APART) as connection:
        connection.read_bytes(1)
        worker.run(submitted)
        assert connection.all() == []


@pytest.mark.parametrize("seen", ["x", "-1", "1.0", "", "1" * 16, "1, 2", "٣".encode().decode("latin-1")])
def test_a_last_event_id_that_is_none_is_400(api: "Api", submitted: str, seen: str) -> None:
    headers = {"last-event-id": seen.encode("latin-1")}
    response = api.client.get(f"/v1/predictions/{submitted}/events", headers=headers)  # type: ignore[arg-type]
    assert (response.status_code, response.json()["code"]) == (400, "malformed_request")


def test_what_is_unknown_is_404_and_what_was_deleted_410(api: "Api", worker: "PlayedWorker", submitted: str) -> None:
    for id_ in (UNKNOWN, "x"):
        assert api.client.get(f"/v1/predictions/{id_}/events").json()["code"] == "prediction_not_found"
    worker.run(submitted)
    worker.predictions.delete(submitted, "default")
    for headers in ({}, {"last-event-id": f"{2 * APART}"}):
        response = api.client.get(f"/v1/predictions/{submitted}/events", headers=headers)
        assert (response.status_code, response.json()["code"]) == (410, "prediction_purged")
    assert api.client.get(f"/v1/predictions/{UNKNOWN}/events?after=1").status_code == 422


def test_head_answers_at_once(api: "Api", submitted: str) -> None:
    response = api.client.head(f"/v1/predictions/{submitted}/events", timeout=5)
    assert (response.status_code, response.headers["content-type"]) == (200, "text/event-stream")


def lost(worker: "PlayedWorker", claim: str, id_: str) -> None:
    given_back = worker.predictions.give_back(claim, [Returned(id=id_, losses=1)], settled=True)
    assert len(given_back.queued) == 1


def canceled(worker: "PlayedWorker", claim: str, id_: str) -> None:
    ended = worker.predictions.finish([Finished(claim=claim, outcomes=[Outcome(id=id_, canceled=True)], settled=True)])
    worker.notify(ended)


def test_a_lost_attempt_a_cancel_and_a_retry_are_all_told(new_stack: Callable[..., "Stack"], database_url: str) -> None:
    """On both stores, to one who watches, to one who comes back after each event, and to one who comes at the end."""
    stack = new_stack(database_url)
    api, worker = stack.api, stack.worker
    id_ = api.submit().json()["id"]
    with Connection(api, id_) as watching:
        first = worker.claim(id_)
        worker.report(id_, said(1, 1), said(1, 2))
        watching.until(has(2))
        lost(worker, first, id_)
        second = worker.claim(id_)
        worker.report(id_, said(1, 3, "too late"), said(2, 1, 0.5))
        watching.until(has(0.5))
        assert worker.predictions.cancel(id_, "default")[0]
        watching.until(has("canceling"))
        worker.report(id_, said(2, 2, "last words"))
        watching.until(has("last words"))
        canceled(worker, second, id_)
        told = watching.all()
    told = [event for event in told if event.data.get("output") != "too late"]  # it may be seen or not
    seen = ["queued", "in_progress", 1, 2, "queued", "in_progress", 0.5, "canceling", "last words", "canceled"]
    assert words(told) == seen
    assert [event.id for event in told] == sorted({event.id for event in told})
    assert told[-1].data["prediction"]["status"] == "canceled"

    assert worker.predictions.retry(id_, "default")[0]
    with Connection(api, id_, told[-1].id) as watching:
        worker.run(id_, answer=lambda _: ItemError(ItemCode.MODEL_ERROR, "no"))
        retried = watching.all()
    assert words(retried) == ["queued", "in_progress", "failed"]
    assert retried[-1].data["attempt"] == 3
    assert retried[-1].data["prediction"]["error"]["code"] == "model_error"

    del told[-1].data["prediction"]  # of an end before a retry, SQL has only the status and the time
    whole = everything(api, id_)
    assert [event for event in whole if event.data.get("output") != "too late"] == [*told, *retried]
    behind: list[Event] = []
    while True:
        with Connection(api, id_, behind[-1].id if behind else None) as connection:
            while not connection.events and not connection.ended:
                connection.read()
            if not connection.events:
                break
            behind.append(connection.events[0])
    assert connection.status == 204
    assert behind == whole


class Follower:
    """A client that keeps the connection for some bytes, and comes back with the last id that it has in full."""

    def __init__(self, api: "Api", id_: str) -> None:
        self._api = api
        self._id = id_
        self.events: list[Event] = []

    @property
    def seen(self) -> int | None:
        return self.events[-1].id if self.events else None

    def follow(self, count: int | None = None) -> int:
        """Reads so many bytes, or to the end of the stream; the status."""
        with Connection(self._api, self._id, self.seen) as connection:
            if count is None:
                connection.all()
            else:
                connection.read_bytes(count)
            self.events += connection.events
            return connection.status


@contextlib.contextmanager
def meanwhile(work: Callable[[], None]) -> Iterator[None]:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join(60)
    assert not failures
    assert not thread.is_alive()


def test_a_client_cut_off_twenty_times_at_random_bytes_sees_every_event_once(
    new_stack: Callable[..., "Stack"], database_url: str
) -> None:
    stack = new_stack(database_url)
    worker = stack.worker
    id_ = stack.api.submit().json()["id"]
    chance = random.Random(20)
    pause = threading.Event()

    def run() -> None:
        for attempt in (1, 2, 3):
            claim = worker.claim(id_)
            for n in range(1, 201):
                worker.report(id_, said(attempt, n, n / 200 if n % 3 else "x" * chance.randrange(200)))
                pause.wait(0.005)
            if attempt < 3:
                lost(worker, claim, id_)
            else:
                worker.finish(claim, id_)

    follower = Follower(stack.api, id_)
    with meanwhile(run):
        for _ in range(20):
            assert follower.follow(chance.randrange(3500)) in (0, 200)
        assert follower.follow() == 200
    whole = everything(stack.api, id_)
    assert len(whole) == 3 * 200 + 7
    assert follower.events == whole
    assert follower.follow() == 204
    assert follower.events == whole


@pytest.mark.parametrize("which", ["redis", "api"])
def test_a_restart_of_redis_or_of_the_api_loses_no_transition_and_doubles_nothing(
    new_stack: Callable[..., "Stack"], sqlite_url: str, which: str
) -> None:
    stack = new_stack(sqlite_url)
    api, worker = stack.api, stack.worker
    id_ = api.submit().json()["id"]
    first = worker.claim(id_)
    worker.report(id_, said(1, 1), said(1, 2), said(1, 3))
    follower = Follower(api, id_)
    if which == "redis":
        with Connection(api, id_) as connection:
            connection.until(has(3))
            stack.valkey.stop()
            lost(worker, first, id_)
            second = worker.claim(id_)
            assert words(connection.until(lambda events: len(events) == 7)) == [
                "queued", "in_progress", 1, 2, 3, "queued", "in_progress"]  # fmt: skip
            stack.valkey.start()
            wait_until(lambda: api.client.get("/ready").json()["checks"]["broker"] == "up", 10, "the subscription")
            worker.report(id_, said(2, 7), said(2, 8))
            assert words(connection.until(has(8)))[7:] == [7, 8]
            worker.finish(second, id_)
            assert words(connection.all())[9:] == ["succeeded"]
        return
    with Connection(api, id_) as connection:
        connection.until(has(3))
        started = time.monotonic()
        api.process.send_signal(signal.SIGTERM)
        follower.events = connection.all()  # the stream ends as it should
        assert time.monotonic() - started < 5
        assert api.process.wait(10) == 0
    worker.report(id_, said(1, 4))
    with meanwhile(api.start):
        pass
    with Connection(api, id_, follower.seen) as connection:
        assert words(connection.until(has(4))) == [4]
        worker.finish(first, id_)
        assert words(connection.all()) == [4, "succeeded"]


@pytest.mark.parametrize("how", ["away", "hanging"])
def test_without_redis_a_stream_has_all_transitions(
    new_stack: Callable[..., "Stack"], sqlite_url: str, how: str
) -> None:
    stack = new_stack(sqlite_url)
    id_ = stack.api.submit().json()["id"]
    if how == "away":
        stack.valkey.stop()
    else:
        with redis.Redis.from_url(stack.valkey.url) as client:
            os.kill(client.info("server")["process_id"], signal.SIGSTOP)
    with Connection(stack.api, id_) as connection:
        claim = stack.worker.claim(id_)
        connection.until(has("in_progress"))
        stack.worker.finish(claim, id_, notify=False)
        assert words(connection.all()) == ["queued", "in_progress", "succeeded"]


def test_a_list_of_reports_that_vanished_and_began_again_is_read_from_its_beginning(
    stack: "Stack", submitted: str
) -> None:
    worker = stack.worker
    claim = worker.claim(submitted)
    worker.report(submitted, *[said(1, n) for n in range(1, 6)])
    with Connection(stack.api, submitted) as connection:
        connection.until(has(5))
        with redis.Redis.from_url(stack.valkey.url) as client:
            client.delete(reports.key(submitted))
            client.rpush(reports.key(submitted), b"no report", reports.encode(Report(1, 6, "progress", 0, b"[]")))
        worker.report(submitted, said(1, 5), *[said(1, n) for n in range(7, 12)])
        connection.until(has(11))
        worker.finish(claim, submitted)
        assert words(connection.all()) == ["queued", "in_progress", 1, 2, 3, 4, 5, *range(7, 12), "succeeded"]


def test_reports_that_come_after_the_end_was_written_are_waited_for(stack: "Stack", submitted: str) -> None:
    """SQL tells the end before its notice and before the last report."""
    worker = stack.worker
    claim = worker.claim(submitted)
    with Connection(stack.api, submitted) as connection:
        connection.until(has("in_progress"))
        worker.finish(claim, submitted, notify=False)
        worker.report(submitted, said(1, 1))
        assert words(connection.all()) == ["queued", "in_progress", 1, "succeeded"]


def test_many_streams_share_few_connections_to_redis_and_leave_nothing(stack: "Stack", submitted: str) -> None:
    api, worker = stack.api, stack.worker
    with redis.Redis.from_url(stack.valkey.url) as client, contextlib.ExitStack() as opened:
        claim = worker.claim(submitted)
        opened.enter_context(Connection(api, submitted)).until(has("in_progress"))
        before = len(client.client_list())
        streams = [opened.enter_context(Connection(api, submitted)) for _ in range(99)]
        worker.report(submitted, said(1, 1), said(1, 2))
        for stream in streams:
            stream.until(has(2))
        assert api.metric("headway_api_event_streams") == 100
        assert len(client.client_list()) <= before
        for stream in streams[1:]:
            stream.socket.close()
        wait_until(lambda: api.metric("headway_api_event_streams") == 2, 10, "the others to be forgotten")
        worker.finish(claim, submitted)
        assert words(streams[0].all()) == ["queued", "in_progress", 1, 2, "succeeded"]
    wait_until(lambda: api.metric("headway_api_event_streams") == 0, 10, "no stream")


def memory(api: "Api") -> int:
    """Resident bytes of the process."""
    return int(Path(f"/proc/{api.process.pid}/statm").read_text().split()[1]) * 4096


def test_a_client_that_reads_slowly_costs_no_memory_and_gets_everything(stack: "Stack", submitted: str) -> None:
    api, worker = stack.api, stack.worker
    claim = worker.claim(submitted)
    with contextlib.ExitStack() as opened:
        slow = [opened.enter_context(Connection(api, submitted, SO_RCVBUF=4096)) for _ in range(10)]
        wait_until(lambda: api.metric("headway_api_event_streams") == 10, 10, "the streams")
        before = memory(api)
        for n in range(1, 101):
            worker.report(submitted, said(1, n, f"{n}:" + "x" * 200_000))
        assert api.client.get("/health").status_code == 200
        wait_until(lambda: api.metric("headway_api_event_streams") == 10)
        assert memory(api) - before < 60_000_000  # and not 200 MB
        worker.finish(claim, submitted)
        slow[0].socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        outputs = [event.data["output"].partition(":")[0] for event in slow[0].all() if event.kind == "output"]
        assert outputs == [str(n) for n in range(1, 101)]


@contextlib.asynccontextmanager
async def serving(database_url: str, redis_url: str) -> AsyncIterator[Service]:
    """The insides of an API, without HTTP around it."""
    service = Service(Settings(redis_url=redis_url, database_url=database_url, models=Path("models")))
    await service.start()
    try:
        yield service
    finally:
        await service.stop()


def test_where_nothing_happens_a_comment_comes_now_and_then(sqlite_url: str, redis_url: str) -> None:
    class EnoughError(Exception):
        pass

    pieces: list[bytes] = []

    async def write(piece: bytes) -> None:
        pieces.append(piece)
        if len(pieces) == 5:
            raise EnoughError

    async def follow() -> None:
        async with serving(sqlite_url, redis_url) as service:
            prediction = new_prediction()
            service.predictions.insert([prediction])
            row = service.predictions.read([prediction.id])[prediction.id]
            with pytest.raises(EnoughError):
                await EventStream(service, row, None, comment_every_s=0.2).write(write)

    started = time.monotonic()
    asyncio.run(follow())
    assert 0.6 <= time.monotonic() - started < 10
    assert pieces[1].startswith(b"id: 0\n")
    assert [piece.startswith(b": ") and piece.endswith(b"\n\n") for piece in pieces[2:]] == [True] * 3


def test_who_waits_for_any_change_hears_of_progress_before_the_row_is_due(sqlite_url: str, redis_url: str) -> None:
    """The best of some tries: without a word, the row is read every second."""

    async def hear() -> list[float]:
        took: list[float] = []
        async with serving(sqlite_url, redis_url) as service:
            prediction = new_prediction()
            service.predictions.insert([prediction])
            claim = new_id()
            service.workers.register("w1", "cpu", "host", 1)
            service.predictions.claim(claim, "w1", [prediction.id], prediction.model, prediction.version)
            async with asyncio.timeout(10), redis.asyncio.Redis.from_url(redis_url) as client:
                for n in range(5):
                    row = service.predictions.read([prediction.id])[prediction.id]
                    started = time.monotonic()
                    waiter = service.waiting.register((row.id,), 20, unlike=(row.revision, row.claim))
                    service.predictions.progress([(row.id, claim, b'{"fraction":0.%d,"message":null}' % n)])
                    await client.publish(reports.CHANNEL, notices.encode_ids([row.id]))
                    await waiter.wait()
                    took.append(time.monotonic() - started)
                    assert waiter.present[row.id].progress == b'{"fraction":0.%d,"message":null}' % n
        return took

    assert min(asyncio.run(hear())) < 0.7


def test_what_anybody_publishes_breaks_nothing(stack: "Stack", submitted: str) -> None:
    claim = stack.worker.claim(submitted)
    with Connection(stack.api, submitted) as connection, redis.Redis.from_url(stack.valkey.url) as client:
        connection.until(has("in_progress"))
        for channel in (reports.CHANNEL, notices.CHANNEL, notices.CANCELS):
            for payload in (b"", b"\xff\xfe", b"\x81\xa1x\xa1y", notices.encode_ids([UNKNOWN, submitted])):
                client.publish(channel, payload)
        client.rpush(reports.key(submitted), b"\xff", reports.encode(said(7, 1)))  # of an attempt that never was
        stack.worker.report(submitted, said(1, 1))
        stack.worker.finish(claim, submitted)
        assert words(connection.all())[-1] == "succeeded"
    assert stack.api.client.get("/ready").json()["checks"]["broker"] == "up"
