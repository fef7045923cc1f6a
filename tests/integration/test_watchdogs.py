"""Workers and utility workers that are up and do nothing end themselves; those that only wait do not.

Each stuck process has a plant: a few lines that take the place of what then hangs, is forgotten or raises.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from headway import broker
from headway.running import children, gone
from headway.states import Status
from headway.testing import new_prediction, wait_until
from headway.types import Hint, NewPrediction
from launch.embedded import EmbeddedValkey
from storage.engine import Database
from storage.models import Models
from storage.predictions import Predictions
from storage.routes import Routes
from storage.workers import Workers
from workers.watchdog import FAILED

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the processes in /proc")

SILENT_S = 4

MODEL = """
import time
from headway import Model

class Slow(Model):
    def predict(self, inputs):
        time.sleep(max(inputs))
        return inputs
"""

#: What is planted, and what the process says of it.
PLANTS = {
    "the loop hangs": (
        "from workers.intake import Intake; Intake._tell = lambda self, consumer: time.sleep(1000)",
        "the intake, which does not hear its own bell",
    ),
    "the loop turns and fetches nothing": (
        """
        from workers.channel import _Channel as Channel
        fetch, fetches = Channel._brpop_start, []
        Channel._brpop_start = lambda self, timeout=None: fetches.append(1) or len(fetches) > 5 or fetch(self, timeout)
        """,
        "the intake, which does not hear its own bell",
    ),
    "one line is forgotten": (
        """
        from workers.intake import LineOrder
        ask = LineOrder.consume
        LineOrder.consume = lambda self, count: [name for name in ask(self, count) if ":1" not in name]
        """,
        "the intake, which leaves hints in headway:",
    ),
    "the feed raises": ("from workers.claiming import Claiming; Claiming.claim = lambda self, items: {}[0]", "'feed m"),
    "the device thread raises": (
        "from workers.runner import Runner; Runner._received = lambda self, reply, executor: {}[0]",
        "'device m",
    ),
    "the feed hangs": (
        "from workers.slots import Slots; Slots.has_room = lambda self: False",
        "which lets them wait, has shown no sign of life",
    ),
    "results cannot be written": (
        "from storage.predictions import Predictions; Predictions.finish = lambda self, parts: {}[0]",
        " has ended",
    ),
    "the heartbeat hangs": (
        "from storage.workers import Workers; Workers.beat = lambda *_: time.sleep(1000)",
        "the heartbeat has shown no sign of life",
    ),
    "nothing is decided any more": (
        "from workers.residents import Residents; Residents.step = lambda self: {}[0]",
        "who loads and unloads has shown no sign of life",
    ),
    "the interpreter hangs": (
        """
        import ctypes, workers.watchdog
        from workers.inference import Stragglers
        workers.watchdog._DEAF_S = 2.0
        Stragglers._run = lambda self: time.sleep(2) or ctypes.PyDLL(None).sleep(1000)  # nobody else runs meanwhile
        """,
        "Timeout (0:00:02)!",
    ),
}

#: The others take long to start: `make endurance` has them all.
QUICK = ("the loop turns and fetches nothing", "one line is forgotten", "the feed raises", "the heartbeat hangs")
CHOSEN = list(PLANTS) if os.environ.get("ALL_PLANTS") else QUICK

#: Those for which no model need be loaded.
BARE = ("the loop hangs", "the loop turns and fetches nothing", "the heartbeat hangs", "the interpreter hangs")

BOOT = """
import sys, threading, time
{plant}
from launch.cli import app
app(sys.argv[1:])
"""


class Process:
    """A worker, or a utility worker, with a plant, on a store of its own."""

    def __init__(
        self,
        folder: Path,
        template: Path,
        redis_url: str,
        *words: str,
        plant: str = "",
        silent_s: int = SILENT_S,
        model_py: str = MODEL,
    ) -> None:
        folder.mkdir()
        shutil.copy(template, folder / "headway.db")
        self.file = folder / "headway.db"
        self.model = f"m{folder.name}"
        version = folder / "models" / self.model / "1"
        version.parent.mkdir(parents=True)
        if model_py:
            version.mkdir()
            (version / "model.py").write_text(model_py)
        (version.parent / "model.toml").write_text("[batching]\nmax_batch_size = 1\n")
        self._log = folder / "log"
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", BOOT.format(plant=textwrap.dedent(plant)), *words],
                env={
                    **{name: value for name, value in os.environ.items() if not name.startswith("HEADWAY_")},
                    "HEADWAY_REDIS_URL": redis_url,
                    "HEADWAY_DATABASE_URL": f"sqlite:///{self.file}",
                    "HEADWAY_MODELS": str(folder / "models"),
                    "HEADWAY_SILENT": str(silent_s),
                },
                stderr=log,
            )
        self.database = Database.open(f"sqlite:///{self.file}")
        self.predictions = Predictions(self.database)
        self._redis = redis.Redis.from_url(redis_url)

    def submit(self, seconds: float = 0.0, *, hint: bool = True) -> str:
        line = broker.line(self.model, "1", 5)
        row: NewPrediction = new_prediction(model=self.model, line=line, body=b"%f" % seconds)
        (position,) = self.predictions.insert([row])
        assert isinstance(position, int)
        if hint:
            hints = [(5, Hint(id=row.id, size=1, shape=None, position=position))]
            self._redis.lpush(line, *(wire for _, wire in broker.envelopes(line, hints, at_most=64)))
        return row.id

    def succeeded(self, id_: str) -> bool:
        return self.predictions.read([id_])[id_].status is Status.SUCCEEDED

    def state(self) -> str:
        """Of its model's version."""
        return next((one.state for one in Models(self.database).all() if one.model == self.model), "unknown")

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def close(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()
        self.database.close()
        self._redis.close()


@pytest.fixture(scope="module")
def stuck(
    sqlite_template: Path, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Process]]:
    """One worker for each plant, and a utility worker, all at once: mostly they wait."""
    folder = tmp_path_factory.mktemp("stuck")
    running = {}
    try:
        for number, name in enumerate(CHOSEN):
            plant, _ = PLANTS[name]
            running[name] = Process(
                folder / str(number),
                sqlite_template,
                redis_url,
                *("worker", "--device", "cpu"),
                plant=plant,
                model_py="" if name in BARE else MODEL,
            )
            running[name].submit()
        plant = "from workers.janitor import Janitor; Janitor.step = lambda self: time.sleep(1000)"
        running["the janitor"] = Process(folder / "janitor", sqlite_template, redis_url, "utility", plant=plant)
        yield running
    finally:
        for process in running.values():
            process.close()


@pytest.mark.parametrize("plant", CHOSEN)
def test_a_worker_that_is_up_and_does_nothing_ends_itself(stuck: dict[str, Process], plant: str) -> None:
    process = stuck[plant]
    code = process.process.wait(100)
    assert PLANTS[plant][1] in process.log
    assert code == (1 if plant == "the interpreter hangs" else FAILED)


class HalfDead:
    """A proxy that can stop passing anything on, in connections that there are: no reset, no end, only silence."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._open: list[socket.socket] = []
        self._silenced: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                down, _ = self._listening.accept()
                up = socket.socket(socket.AF_UNIX)
                up.connect(self._upstream)
                self._open += [down, up]
                for source, sink in ((down, up), (up, down)):
                    threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                if source not in self._silenced:
                    sink.sendall(data)
            if source not in self._silenced:
                sink.shutdown(socket.SHUT_WR)

    def silence(self) -> None:
        self._silenced.update(self._open)

    def close(self) -> None:
        for one in (self._listening, *self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Any]:
    """One of this test's own: (process, unix socket, password)."""
    (tmp_path / "v").mkdir()
    embedded = EmbeddedValkey.prepare(tmp_path / "v")
    process = subprocess.Popen(embedded.argv)
    try:
        wait_until(embedded.answers, 10, "Valkey to answer")
        yield process, embedded
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()
        embedded.remove()


def test_a_worker_whose_connection_is_half_dead_consumes_again_or_ends(
    sqlite_template: Path, valkey: Any, tmp_path: Path
) -> None:
    """No packet comes back and no reset; new connections are as good as ever."""
    _, embedded = valkey
    password, path = embedded.url.removeprefix("unix://").lstrip(":").split("@", 1)
    proxy = HalfDead(path.partition("?")[0])
    worker = Process(
        tmp_path / "w", sqlite_template, f"redis://:{password}@127.0.0.1:{proxy.port}/0", "worker", "--device", "cpu"
    )
    try:
        first = worker.submit()
        wait_until(lambda: worker.succeeded(first), 30, "the first prediction")
        proxy.silence()
        assert worker.process.wait(30) == FAILED
        assert "which does not hear its own bell" in worker.log
    finally:
        worker.close()
        proxy.close()


def test_a_worker_that_only_waits_is_left_alone(sqlite_template: Path, valkey: Any, tmp_path: Path) -> None:
    """Paused, with a full window behind a long call, without Redis, without SQL."""
    server, embedded = valkey
    worker = Process(tmp_path / "w", sqlite_template, embedded.url, "worker", "--device", "cpu")
    passes = SILENT_S + 1.0
    try:
        first = worker.submit()
        wait_until(lambda: worker.succeeded(first), 30, "the first prediction")
        # One call of that length, and more hints than the window takes.
        last = [worker.submit(passes), *(worker.submit() for _ in range(20))][-1]
        wait_until(lambda: worker.succeeded(last), 30, "what waited behind a long call")
        routes = Routes(worker.database)
        routes.pause(worker.model, True)
        wait_until(lambda: routes.all()[worker.model].paused, 5)
        last = [worker.submit() for _ in range(20)][-1]
        assert_lasts(worker, passes)
        routes.pause(worker.model, False)
        wait_until(lambda: worker.succeeded(last), 30, "what waited while it was paused")
        server.send_signal(signal.SIGSTOP)
        without = worker.submit(hint=False)
        assert_lasts(worker, passes)
        server.send_signal(signal.SIGCONT)
        wait_until(lambda: worker.succeeded(without), 30, "what was submitted without Redis")
        with (worker.file.parent / f"{worker.file.name}-main").open("a") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            assert_lasts(worker, passes)
            fcntl.flock(turn, fcntl.LOCK_UN)
        last = worker.submit()
        wait_until(lambda: worker.succeeded(last), 30, "one after all that")
        assert "sign of life" not in worker.log
        worker.process.send_signal(signal.SIGTERM)
        assert worker.process.wait(20) == 0
    finally:
        worker.close()


def assert_lasts(worker: Process, seconds: float) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        worker.process.wait(seconds)


def test_a_janitor_that_hangs_loses_its_lease_and_its_process_ends(stuck: dict[str, Process]) -> None:
    utility = stuck["the janitor"]
    workers = Workers(utility.database)
    wait_until(lambda: workers.lease_left("janitor") is not None, 30, "the lease to be held")
    wait_until(lambda: workers.hold_lease("janitor", "another", 10), 30, "the lease to be free")
    assert utility.process.wait(30) == 1  # its main thread hangs, and had to be left
    assert "the janitor has shown no sign of life" in utility.log


DIES = """
import os
from pathlib import Path
from headway import Model

GONE = Path(__file__).with_name("gone")

class Dies(Model):
    def load(self, context):
        if GONE.exists():
            raise RuntimeError("No CUDA GPUs are available")

    def predict(self, inputs):
        if 1.0 in inputs:
            GONE.touch()
            os._exit(74)  # as it does itself when a device is lost
        return inputs
"""


def test_a_version_whose_device_is_gone_hands_back_what_waits(
    sqlite_template: Path, redis_url: str, tmp_path: Path
) -> None:
    worker = Process(tmp_path / "gone", sqlite_template, redis_url, "worker", "--device", "cpu", model_py=DIES)
    try:
        first = worker.submit()
        wait_until(lambda: worker.succeeded(first), 30, "the first prediction")
        waiting = [worker.submit(1.0), *(worker.submit() for _ in range(5))]
        wait_until(lambda: worker.state() == "failed", 30, "the version to be shown as failed")
        with redis.Redis.from_url(redis_url) as client:
            line = broker.line(worker.model, "1", 5)
            wait_until(lambda: client.llen(line) > 0, 10, "the hints to be back in Redis")

        def statuses() -> set[Status]:
            return {row.status for row in worker.predictions.read(waiting).values()}

        wait_until(lambda: statuses() == {Status.QUEUED}, 10, "what was on the device to be queued, too")
        assert worker.process.poll() is None
    finally:
        worker.close()


def test_a_device_process_dies_with_a_worker_that_ends_itself(stuck: dict[str, Process]) -> None:
    process = stuck["the feed raises"].process
    process.wait(60)
    assert gone(process.pid)
    assert children(process.pid) == []
