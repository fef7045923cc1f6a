"""The system under test: `headway up`, a second worker beside it, and the Valkey and the database that it uses.

All of it is private to one run, and every part can be found, so that it can be broken.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import redis

from headway.clock import new_id
from headway.keys import new_token
from headway.running import RunningHeadway, children, command_line, descendants, free_port
from headway.testing import wait_until
from launch.embedded import EmbeddedValkey
from storage.engine import Database, embedded_url, sqlite_module
from storage.keys import Keys
from storage.migrate import upgrade
from tests.chaos import models
from tests.chaos.proxy import Proxy
from tests.conftest import new_postgres_server, stop_at_once

TENANTS = ("ants", "bees", "cats")
#: So that nothing takes minutes that takes seconds here: some twenty attempts in two minutes.
_DISK_MB = 512
_RESTART_S = 60.0
_SCHEDULE = ",".join(["0.3", "0.6", "1", "2", "3", "4", *["5"] * 20])


@dataclass
class System:
    """`start` blocks; `close` ends what it has started, and neither Valkey nor the database."""

    folder: Path
    valkey: "Valkey"
    postgres: "Postgres | None"  # None: SQLite
    redis_proxy: Proxy
    sql_proxy: Proxy | None
    secret: str  # of webhooks
    workers: int

    def __post_init__(self) -> None:
        self._cleanup = contextlib.ExitStack()
        self.failpoints = self.folder / "failpoints"
        self.failpoints.mkdir()
        self.data = self.folder / "data"
        self.keeper: Keeper | None = None
        self.disk = False  # whether the data lies on a file system that may be filled
        self.keys = {tenant: new_token() for tenant in TENANTS}
        self.admin_key = new_token()

    @property
    def database_url(self) -> str:
        """Past any proxy."""
        return embedded_url(self.data) if self.postgres is None else self.postgres.url

    def start(self) -> None:
        """Until it is ready."""
        models.write(self.folder / "models")
        self.data.mkdir(exist_ok=True)
        if self.postgres is None:
            self.disk = self._mount()
        upgrade(self.database_url)
        database = Database.open(self.database_url)
        for tenant, token in self.keys.items():
            Keys(database).add(token, tenant_id=tenant, scopes=("predict", "read"), name=tenant)
        Keys(database).add(self.admin_key, tenant_id="default", scopes=("admin",), name="admin")
        database.close()
        redis_url = f"redis://:{self.valkey.password}@127.0.0.1:{self.redis_proxy.port}/0"
        database_url = self.database_url
        if self.postgres is not None and self.sql_proxy is not None:
            database_url = self.postgres.url_by(self.sql_proxy.port)
        self.metrics_ports = [free_port() for _ in range(self.workers)]
        environ = {
            "HEADWAY_WEBHOOK_ALLOW": "127.0.0.0/8",
            "HEADWAY_WEBHOOK_SCHEDULE": _SCHEDULE,
            "HEADWAY_WEBHOOK_SECRET": self.secret,
            "HEADWAY_FAILPOINTS": str(self.failpoints),
        }
        options = ["--devices", "cpu", "--metrics-port", str(self.metrics_ports[0])]
        # Fixed, so that one that is started again is found again.
        options += ["--port", str(free_port()), "--admin-port", str(free_port())]
        options += ["--redis-url", redis_url, "--database-url", database_url]
        self.headway = RunningHeadway(self.folder, options=options, environ=environ)
        self._cleanup.callback(self.headway.close)
        self.headway.wait_ready()
        if self.workers > 1:
            more = {
                "HEADWAY_REDIS_URL": redis_url,
                "HEADWAY_DATABASE_URL": database_url,
                "HEADWAY_MODELS": str(self.folder / "models"),
                "HEADWAY_BLOBS": str(self.data / "blobs"),
                "HEADWAY_METRICS_PORT": str(self.metrics_ports[1]),
            }
            command = [sys.executable, "-m", "launch", "worker", "--device", "cpu"]
            self.keeper = Keeper(command, environ | more, self.folder / "worker.log")
            self._cleanup.callback(self.keeper.close)

    def _mount(self) -> bool:
        """A small file system for the data, where this process may mount one: root may, few others."""
        size = f"size={_DISK_MB}m"
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(self.data)], stderr=subprocess.DEVNULL
        )
        if mounted.returncode:
            return False
        self._cleanup.callback(lambda: subprocess.run(["umount", "--lazy", str(self.data)], check=False))
        return True

    def close(self) -> None:
        self._cleanup.close()

    def restart(self) -> None:
        """As when the power fails, but for the disk: `up` is killed, and all its parts die with it."""
        self.headway.process.kill()
        give_up = time.monotonic() + _RESTART_S
        while True:  # as systemd would: it does not start while SQL is away
            self.headway.process.wait()
            if self.headway.process.stdout is not None:
                self.headway.process.stdout.close()
            self.headway.process = self.headway.start()
            try:
                return self.headway.wait_ready()
            except RuntimeError:
                if time.monotonic() > give_up:
                    raise
            time.sleep(0.5)

    def hold_lock(self, seconds: float) -> None:
        """Nobody else writes meanwhile."""
        if self.postgres is not None:
            with self.postgres.connect(self.postgres.name) as connection, connection.transaction():
                connection.execute("LOCK TABLE predictions IN ACCESS EXCLUSIVE MODE")
                time.sleep(seconds)
            return
        file = sqlite_module().connect(self.data / "headway.db", timeout=5, isolation_level=None)
        file.execute("BEGIN IMMEDIATE")
        time.sleep(seconds)
        file.close()

    def fill_disk(self, ballast: Path) -> None:
        """To the last block."""
        with ballast.open("wb") as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(65_536))
                file.flush()

    def pids(self, part: str) -> list[int]:
        """Of api, worker, utility; of all device processes: `device`. Those that live now."""
        roots = [self.headway.process.pid]
        if self.keeper is not None and self.keeper.pid:
            roots.append(self.keeper.pid)
        every = [pid for root in roots for pid in (root, *descendants(root))]
        found = []
        for pid in every:
            words = command_line(pid)
            if part == "device":
                if any(re.search(r"@\d+#\d+$", word) for word in words):
                    found.append(pid)
            elif "launch" in words and part in words:
                found.append(pid)
        return found


class Keeper:
    """A worker that something like systemd looks after: started again half a second after its end."""

    def __init__(self, command: list[str], environ: dict[str, str], log: Path) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HEADWAY_", "FLOWER_"))}
        self._command, self._environ, self._log = command, kept | environ, log
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._keep)
        self._thread.start()

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def close(self) -> None:
        self._stopping.set()
        if self._process is not None:
            self._process.terminate()
        self._thread.join(20)
        if self._process is not None:
            _kill_tree(self._process.pid)

    def _keep(self) -> None:
        while not self._stopping.is_set():
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    self._command, env=self._environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )
            self._process.wait()
            self._stopping.wait(0.5)


def _kill_tree(pid: int) -> None:
    for each in (*children(pid), pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)


class Valkey:
    """One that may be killed, and is empty when it comes back."""

    def __init__(self, folder: Path) -> None:
        self._server = EmbeddedValkey.prepare(folder)
        self.socket = self._server.directory / "valkey.sock"
        self.password = re.match(r"unix://:([^@]+)@", self._server.url)[1]  # type: ignore[index]
        self.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self) -> None:
        self._process = subprocess.Popen(self._server.argv)
        wait_until(self._server.answers, 10, "Valkey to answer")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def client(self) -> "redis.Redis":
        """Past any proxy. Close it."""
        return redis.Redis.from_url(self._server.url)

    def remove(self) -> None:
        self.kill()
        self._server.remove()


class Postgres:
    """A server that may be stopped at once and started again."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self.socket = Path(server.pgdata) / ".s.PGSQL.5432"
        self.name = f"chaos_{new_id()}"
        with self.connect("postgres") as connection:
            connection.execute(f'CREATE DATABASE "{self.name}"'.encode())

    @property
    def url(self) -> str:
        """Past any proxy."""
        return str(self._server.get_uri(self.name))

    def url_by(self, port: int) -> str:
        return f"postgresql://postgres@127.0.0.1:{port}/{self.name}"

    def connect(self, name: str) -> "psycopg.Connection[Any]":
        return psycopg.connect(self._server.get_uri(name), autocommit=True, connect_timeout=5)

    def restart(self) -> None:
        stop_at_once(self._server)
        self._server.ensure_postgres_running()

    def crowd(self) -> "list[psycopg.Connection[Any]]":
        """Every connection that there is left. Close them."""
        held: list[psycopg.Connection[Any]] = []
        with contextlib.suppress(psycopg.OperationalError):
            while len(held) < 1000:
                held.append(self.connect(self.name))
        return held

    def cut(self) -> None:
        """Ends every session but its own."""
        with self.connect("postgres") as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )


@contextlib.contextmanager
def postgres() -> Iterator[Postgres]:
    with new_postgres_server() as server:
        yield Postgres(server)
