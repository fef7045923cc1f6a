"""The API as its clients meet it: a process of its own on real sockets, and a worker that the test plays by hand."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import redis

from headway import broker, notices
from headway.clock import new_id
from headway.errors import ItemError
from headway.manifest import Found, parse
from headway.notices import Ended
from headway.testing import new_prediction, wait_until
from headway.types import Outcome
from launch.embedded import EmbeddedValkey
from storage.engine import Database
from storage.migrate import upgrade
from storage.models import Models
from storage.predictions import Finished, Predictions
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
