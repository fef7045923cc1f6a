"""The API as its clients meet it: a process of its own on real sockets, and a worker that the test plays by hand."""

import asyncio
import contextlib
import inspect
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import redis

from headway import broker, notices, reports
from headway.client import AsyncClient, AsyncJob, Client
from headway.clock import new_id
from headway.errors import ItemCode, ItemError
from headway.manifest import parse
from headway.notices import Ended
from headway.reports import Report
from headway.settings import Settings
from headway.testing import new_prediction, wait_until
from headway.types import Outcome
from headway.versions import Found
from launch.embedded import EmbeddedValkey
from storage.blobs import Blobs
from storage.engine import Database
from storage.migrate import upgrade
from storage.models import Models
from storage.predictions import Predictions
from storage.running import Finished
from storage.workers import Workers

#: name → (model.toml, versions, error of the folder).
MODELS: dict[str, tuple[Mapping[str, Any], list[str], str | None]] = {
    "echo": ({"aliases": {"stable": 1, "gone": 9}, "batching": {"max_batch_size": 4}}, ["1", "2"], None),
    "pair": ({"inputs": {"x": {"dtype": "float32", "shape": [2]}}}, ["1"], None),
    "broken": ({}, ["1"], "model.py raises ImportError"),
}

Answering = Callable[[bytes], bytes | ItemError]


class Valkey:
    """A broker that can be stopped and started again in the same place."""

    def __init__(self) -> None:
        self._embedded = EmbeddedValkey.prepare(Path(tempfile.mkdtemp(prefix="hw-")))
        self.url = self._embedded.url
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._embedded.argv)
        wait_until(self._embedded.answers, 10, "Valkey")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        self.stop()
        self._embedded.remove()
        self._embedded.directory.parent.rmdir()


class PlayedWorker:
    """Claims, finishes and publishes notices through the real stores, when the test says so."""

    def __init__(self, database: Database, redis_url: str) -> None:
        self.predictions = Predictions(database)
        self.workers = Workers(database)
        self.id = new_id()
        self.workers.register(self.id, "cpu", "test", os.getpid())
        self._redis = redis.Redis.from_url(redis_url)
        self._bodies: dict[str, bytes] = {}

    def queued(self, model: str = "echo", version: str = "2") -> list[str]:
        """Ids of what waits, oldest first."""
        found = [pair for line in broker.lines(model, version) for pair in self.predictions.oldest_queued(line, 500)]
        return [hint.id for _, hint in found]

    def claim(self, *ids: str, model: str = "echo", version: str = "2") -> str:
        claim = new_id()
        taken = self.predictions.claim(claim, self.id, ids, model, version)
        assert len(taken) == len(ids)
        self._bodies = {row.id: row.body for row in taken}
        return claim

    def finish(self, claim: str, *ids: str, answer: Answering = lambda body: body, notify: bool = True) -> None:
        outcomes = [_outcome(id_, answer(self._bodies[id_]), len(ids)) for id_ in ids]
        ended = self.predictions.finish([Finished(claim=claim, outcomes=outcomes, settled=True)])
        assert len(ended) == len(ids)
        if notify:
            self.notify(ended)

    def notify(self, ended: dict[str, Ended]) -> None:
        for id_, end in ended.items():
            if end.output is not None and len(end.output) > notices.INLINE_OUTPUT_BYTES:
                ended[id_] = msgspec.structs.replace(end, output=None, output_omitted=True)
        self._redis.publish(notices.CHANNEL, notices.encode(ended))

    def run(self, *ids: str, answer: Answering = lambda body: body, notify: bool = True) -> None:
        self.finish(self.claim(*ids), *ids, answer=answer, notify=notify)

    def report(self, id_: str, *said: Report) -> None:
        key = reports.key(id_)
        self._redis.rpush(key, *map(reports.encode, said))
        self._redis.expire(key, reports.KEPT_S)
        self._redis.publish(reports.CHANNEL, notices.encode_ids([id_]))

    def close(self) -> None:
        self._redis.close()


def _outcome(id_: str, answer: bytes | ItemError, batch_size: int) -> Outcome:
    if isinstance(answer, ItemError):
        return Outcome(id=id_, error=answer, predict_us=1000, batch_size=batch_size)
    return Outcome(id=id_, output=answer, predict_us=1000, batch_size=batch_size)


class Api:
    """One API process, started on sockets that the test owns, like a supervisor's."""

    def __init__(self, database_url: str, redis_url: str, **environ: str) -> None:
        self._sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        data, control = self._sockets
        self.port: int = data.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.control_url = f"http://127.0.0.1:{control.getsockname()[1]}"
        self._environ = {
            **os.environ,
            "HEADWAY_DATABASE_URL": database_url,
            "HEADWAY_REDIS_URL": redis_url,
            "HEADWAY_LISTEN_DATA_FD": str(data.fileno()),
            "HEADWAY_LISTEN_ADMIN_FD": str(control.fileno()),
            **environ,
        }
        self.client = httpx.Client(base_url=self.url, timeout=30)
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "launch", "api"],
            env=self._environ,
            pass_fds=[listening.fileno() for listening in self._sockets],
        )

    def ready(self) -> None:
        """Connections wait in the backlog, so the first answer may take as long as the start."""
        wait_until(lambda: self.client.get("/ready").json()["checks"]["broker"] == "up", 20, "the API")

    def submit(self, input_: Any = 1, model: str = "echo", **fields: Any) -> httpx.Response:
        return self.client.post(f"/v1/models/{model}/predictions", json={"input": input_, **fields})

    def metric(self, name: str) -> float:
        """A sample without labels."""
        text = httpx.get(f"{self.control_url}/metrics").text
        return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name} "))

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(15)
        finally:
            self.process.kill()
            self.process.wait()

    def close(self) -> None:
        self.client.close()
        self.stop()
        for listening in self._sockets:
            listening.close()


def register_models(database: Database) -> None:
    models = Models(database)
    nowhere = Path("/nowhere")
    for name, (toml, versions, error) in MODELS.items():
        manifest = parse(toml)
        for version in versions:
            models.register(Found(model=name, version=version, path=nowhere, manifest=manifest, error=error))


class Stack:
    """Everything a test of the API touches."""

    def __init__(self, database_url: str, **environ: str) -> None:
        with ExitStack() as opened:
            self.valkey = Valkey()
            opened.callback(self.valkey.close)
            upgrade(database_url)
            self.database = Database.open(database_url)
            opened.callback(self.database.close)
            register_models(self.database)
            self.blobs = Blobs(Settings.from_environ({"HEADWAY_DATABASE_URL": database_url}).blobs)
            self.worker = PlayedWorker(self.database, self.valkey.url)
            opened.callback(self.worker.close)
            self.api = Api(database_url, self.valkey.url, **environ)
            opened.callback(self.api.close)
            self.api.ready()
            self.close = opened.pop_all().close

    def predictions_of(self, model: str, count: int) -> None:
        """So many queued rows of the first version, with nothing in the broker."""
        line = broker.line(model, "1", 5)
        for start in range(0, count, 500):
            rows = [new_prediction(model=model, line=line) for _ in range(min(500, count - start))]
            self.worker.predictions.insert(rows)


class Proxy:
    """A bad line to the API, on real sockets: what happens to the next connections stands in `plan`.

    A number: so many bytes of answers pass, and when more come, the connection is cut; below 0 it is cut at once, and
    nothing is passed on. Bytes: they are the answer, and the API is never asked. When the plan is over, all is well.
    """

    def __init__(self, port: int) -> None:
        self.plan: deque[int | bytes] = deque()
        self.cut = threading.Event()
        self.held = False  # what would be cut stays open, and silent
        self._upstream = ("127.0.0.1", port)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self._open.add(connection)
            fate = self.plan.popleft() if self.plan else None
            self._run(self._serve, connection, fate)

    def _run(self, function: Callable[..., None], *arguments: Any) -> None:
        self._threads.append(threading.Thread(target=function, args=arguments))
        self._threads[-1].start()

    def _serve(self, down: socket.socket, fate: int | bytes | None) -> None:
        with down, contextlib.suppress(OSError):
            if isinstance(fate, bytes):
                _read_request(down)
                down.sendall(fate)
            elif fate is None or fate >= 0:
                with socket.create_connection(self._upstream) as up:
                    self._open.add(up)
                    self._run(self._requests, down, up)
                    self._answers(up, down, fate)
                    _shut(up)
            _shut(down)

    def _requests(self, down: socket.socket, up: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := down.recv(65536):
                up.sendall(data)
            up.shutdown(socket.SHUT_WR)

    def _answers(self, up: socket.socket, down: socket.socket, allowed: int | None) -> None:
        while data := up.recv(65536):
            if allowed is None:
                down.sendall(data)
                continue
            down.sendall(data[:allowed])
            if len(data) > allowed:
                self.cut.set()
                if not self.held:
                    return
            allowed = max(0, allowed - len(data))

    def close(self) -> None:
        _shut(self._listening)
        self._listening.close()
        for connection in self._open:
            _shut(connection)
        for thread in self._threads:
            thread.join(10)


def _read_request(connection: socket.socket) -> None:
    request = b""
    while b"\r\n\r\n" not in request:
        request += connection.recv(65536)
    head, _, body = request.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    while len(body) < (int(length[1]) if length else 0):
        body += connection.recv(65536)


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy(api: Api) -> Iterator[Proxy]:
    """Before the API of the module's stack."""
    made = Proxy(api.port)
    yield made
    made.close()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """On SQLite, shared by a module's tests."""
    database_url = f"sqlite:///{tmp_path_factory.mktemp('api')}/headway.db"
    made = Stack(database_url, HEADWAY_MAX_BODY_BYTES="100000", HEADWAY_WEBHOOK_ALLOW="127.0.0.0/8")
    yield made
    made.close()


@pytest.fixture(scope="module")
def api(stack: Stack) -> Api:
    return stack.api


@pytest.fixture(scope="module")
def worker(stack: Stack) -> PlayedWorker:
    return stack.worker


@pytest.fixture
def working(worker: PlayedWorker) -> Iterator[None]:
    """Whatever is queued is answered with its input; what is `"bad"` fails."""
    stopping = threading.Event()

    def answer(body: bytes) -> bytes | ItemError:
        return ItemError(ItemCode.MODEL_ERROR, "no good") if body == b'"bad"' else body

    def run() -> None:
        while not stopping.wait(0.005):
            if ids := worker.queued():
                worker.run(*ids, answer=answer)

    thread = threading.Thread(target=run)
    thread.start()
    yield
    stopping.set()
    thread.join()


@pytest.fixture
def idle(worker: PlayedWorker) -> None:
    """Nothing is queued that another test has left."""
    if ids := worker.queued():
        worker.run(*ids)


@pytest.fixture
def new_api() -> Iterator[Callable[[str, str], Api]]:
    """Starts APIs on `(database_url, redis_url)` as they are."""
    with ExitStack() as made:

        def make(database_url: str, redis_url: str) -> Api:
            api = Api(database_url, redis_url)
            made.callback(api.close)
            return api

        yield make


@pytest.fixture
def new_stack() -> Iterator[Callable[..., Stack]]:
    """Makes stacks whose parts a test may stop: `new_stack(database_url)`."""
    with ExitStack() as made:

        def make(database_url: str, **environ: str) -> Stack:
            stack = Stack(database_url, **environ)
            made.callback(stack.close)
            return stack

        yield make


class Awaited:
    """An AsyncClient or an AsyncJob whose coroutines are run to their end, so that tests are written once."""

    def __init__(self, target: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._target = target
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._target, name)
        if not callable(attribute):
            return attribute
        return lambda *positional, **named: self._settled(attribute(*positional, **named))

    def _settled(self, value: Any) -> Any:
        if inspect.isawaitable(value):
            value = self._loop.run_until_complete(value)
        if isinstance(value, AsyncJob):
            return Awaited(value, self._loop)
        return self._iterated(value) if hasattr(value, "__anext__") else value

    def _iterated(self, values: Any) -> Iterator[Any]:
        try:
            while True:
                try:
                    yield self._loop.run_until_complete(anext(values))
                except StopAsyncIteration:
                    return
        finally:
            self._loop.run_until_complete(values.aclose())


@pytest.fixture(params=["blocking", "awaiting"])
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Makes clients of either kind: `connect(url, timeout=…)`."""
    made: list[Any] = []
    loop = asyncio.new_event_loop()

    def connect(*positional: Any, **named: Any) -> Any:
        if request.param == "blocking":
            made.append(Client(*positional, **named))
        else:
            made.append(Awaited(AsyncClient(*positional, **named), loop))
        return made[-1]

    yield connect
    for client in made:
        client.close()
    loop.close()


@pytest.fixture
def client(connect: Callable[..., Any], api: Api) -> Any:
    return connect(api.url)
