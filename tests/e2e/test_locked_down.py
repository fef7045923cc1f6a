"""The whole system behind TLS, with a Redis user and a PostgreSQL role that may do only what they must; its secrets.

Every secret that it is given is a canary: it may stand in no log, answer, metric, message, row or command line.
"""

import asyncio
import base64
import contextlib
import io
import json
import os
import pickle
import secrets as random_secrets
import socket
import ssl
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psycopg
import pytest
import redis
import trustme
from psycopg import sql
from redis.backoff import NoBackoff
from redis.retry import Retry

from headway.running import RunningHeadway, command_line, descendants, free_port
from headway.testing import wait_until
from launch.embedded import find_binary

ROOT = Path(__file__).parent.parent.parent

MODEL = """
from headway import Model

class Double(Model):
    def predict(self, inputs, context):
        for item in context.items:
            item.progress(0.5, "half")
            item.emit("part")
        return [2 * number for number in inputs]
"""

PICKLES = """
import os
import numpy as np
from headway import Model

class Canary:
    def __reduce__(self):
        return os.mkdir, ("canary of results",)

class Pickles(Model):
    def predict(self, inputs):
        return [np.array([Canary()], dtype=object) for _ in inputs]
"""


@dataclass
class Secrets:
    redis: str
    database: str
    migration: str
    bootstrap: str
    flower: str

    def all(self) -> list[str]:
        plain = list(vars(self).values())
        return plain + [urllib.parse.quote(one, safe="") for one in plain]


@pytest.fixture(scope="module")
def secrets() -> Secrets:
    names = ("redis", "database", "migration", "bootstrap", "flower")
    return Secrets(**{name: f"canary{random_secrets.token_hex(20)}" for name in names})


class Tls:
    """What stands before a Valkey that was built without TLS: it speaks it to clients, and plain text to Valkey."""

    def __init__(self, certificate: trustme.LeafCert, upstream: int) -> None:
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        certificate.configure_cert(self._context)
        self._upstream = upstream
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.port = self._call(self._start())

    def _call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(20)

    async def _start(self) -> int:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        self._server = server
        port: int = server.sockets[0].getsockname()[1]
        return port

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inside, outside = await asyncio.open_connection("127.0.0.1", self._upstream)
        self._writers |= {writer, outside}
        await asyncio.gather(self._pass(reader, outside), self._pass(inside, writer))
        self._writers -= {writer, outside}

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ssl.SSLError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        with contextlib.suppress(OSError, ssl.SSLError):
            writer.close()

    def cut(self) -> None:
        """Every connection there is now."""

        async def cut() -> None:
            for writer in list(self._writers):
                writer.transport.abort()

        self._call(cut())

    def close(self) -> None:
        async def close() -> None:
            self._server.close()

        self.cut()
        self._call(close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@pytest.fixture(scope="module")
def valkey(secrets: Secrets, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a Valkey with the users of deploy/valkey/users.acl, and `admin` for the test."""
    acl = (ROOT / "deploy" / "valkey" / "users.acl").read_text().replace("PASSWORD", secrets.redis)
    folder = tmp_path_factory.mktemp("valkey")
    (folder / "users.acl").write_text(acl + "user admin on nopass ~* &* +@all\n")
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--aclfile", str(folder / "users.acl")]
    process = subprocess.Popen([find_binary(), *options, "--logfile", str(folder / "log")])
    try:
        with operator(port) as admin:
            wait_until(lambda: _answers(admin), 10, "Valkey")
        yield port
    finally:
        process.kill()
        process.wait()


def _answers(client: "redis.Redis") -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


@contextlib.contextmanager
def operator(port: int) -> Iterator["redis.Redis"]:
    with redis.Redis(port=port, username="admin", password="any", retry=Retry(NoBackoff(), 0)) as client:
        yield client


@pytest.fixture(scope="module")
def roles(postgres_server: Any, secrets: Secrets) -> tuple[str, str]:
    """The URLs of the role that migrates and of the one that serves, on a new database."""
    name = f"locked_down_{random_secrets.token_hex(4)}"
    with psycopg.connect(postgres_server.get_uri(), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    with psycopg.connect(postgres_server.get_uri(name), autocommit=True) as connection:
        for _ in range(2):
            connection.execute((ROOT / "deploy" / "postgres" / "roles.sql").read_bytes())
        for role, password in (("headway_migrate", secrets.migration), ("headway_runtime", secrets.database)):
            alter = sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(role), sql.Literal(password))
            connection.execute(alter)
    parts = urllib.parse.urlsplit(postgres_server.get_uri(name))
    host = parts.netloc.rpartition("@")[2]
    return (
        parts._replace(netloc=f"headway_migrate:{secrets.migration}@{host}").geturl(),
        parts._replace(netloc=f"headway_runtime:{secrets.database}@{host}").geturl(),
    )


@dataclass
class Locked:
    """The system, and what stands around it."""

    up: RunningHeadway
    tls: Tls
    valkey: int
    migrating: str
    serving: str
    said: list[str]  # what commands have printed

    def as_operator(self) -> httpx.Client:
        return httpx.Client(
            headers={"Authorization": f"Bearer {self.up._environ['HEADWAY_BOOTSTRAP_KEY']}"}, timeout=40
        )


@pytest.fixture(scope="module")
def locked(
    tmp_path_factory: pytest.TempPathFactory, secrets: Secrets, valkey: int, roles: tuple[str, str]
) -> Iterator[Locked]:
    folder = tmp_path_factory.mktemp("locked")
    version = folder / "models" / "double" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(MODEL)
    (folder / "models" / "pickles" / "1").mkdir(parents=True)
    (folder / "models" / "pickles" / "1" / "model.py").write_text(PICKLES)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    tls = Tls(authority.issue_cert("localhost"), valkey)
    migrating, serving = roles
    migrated = subprocess.run(
        [sys.executable, "-m", "launch", "migrate"],
        env=os.environ | {"HEADWAY_DATABASE_URL": migrating},
        capture_output=True,
        text=True,
    )
    assert migrated.returncode == 0, migrated.stderr
    url = f"rediss://headway:{secrets.redis}@localhost:{tls.port}/0?ssl_ca_certs={folder}/ca.pem"
    up = RunningHeadway(
        folder,
        flower=True,
        environ={
            "HEADWAY_REDIS_URL": url,
            "HEADWAY_DATABASE_URL": serving,
            "HEADWAY_BOOTSTRAP_KEY": secrets.bootstrap,
            "FLOWER_BASIC_AUTH": f"operator:{secrets.flower}",
        },
    )
    try:
        up.wait_ready()
        yield Locked(up, tls, valkey, migrating, serving, [migrated.stderr])
    finally:
        up.close()
        tls.close()


def test_everything_works_with_what_it_is_allowed(locked: Locked, secrets: Secrets) -> None:
    data = locked.up.data_url
    with locked.as_operator() as client:
        for number in range(3):
            answer = client.post(
                f"{data}/v1/models/double/predictions", json={"input": number}, headers={"Prefer": "wait=30"}
            )
            assert answer.json()["output"] == 2 * number
        accepted = client.post(f"{data}/v1/models/double/predictions", json={"input": 7, "priority": 0}).json()
        events = client.get(f"{data}{accepted['urls']['events']}").text
        assert "event: output" in events
        assert "succeeded" in events
        batch = client.post(
            f"{data}/v1/batches?model=double",
            content=b'{"input": 1}\n' * 20,
            headers={"Content-Type": "application/x-ndjson"},
        ).json()
        assert client.get(f"{data}/v1/batches/{batch['id']}/results").text.count('"output":2') == 20
        canceled = client.post(f"{data}/v1/predictions/{accepted['id']}/cancel")
        assert canceled.status_code == 409
        assert client.post(f"{locked.up.control_url}/v1/models/double/queue/pause").status_code == 200
        waiting = client.post(f"{data}/v1/models/double/predictions", json={"input": 8}).json()
        canceled = client.post(f"{data}/v1/predictions/{waiting['id']}/cancel")
        assert client.post(f"{locked.up.control_url}/v1/models/double/queue/resume").status_code == 200
        assert canceled.status_code in (200, 202, 409)  # before the worker had it, while, after
        assert client.get(f"{data}/ready").json()["checks"]["broker"] == "up"
    with httpx.Client(auth=("operator", secrets.flower), timeout=30) as flower:
        url = f"{locked.up.flower_url}/api/workers?refresh=1"
        wait_until(lambda: flower.get(url).json(), 20, "Flower to see the worker")
        for page in ("/broker", "/tasks", "/metrics", "/api/queues/length"):
            assert flower.get(locked.up.flower_url + page).status_code == 200

    locked.tls.cut()  # and everything that is done when connections come back
    with locked.as_operator() as client:
        answer = client.post(f"{data}/v1/models/double/predictions", json={"input": 9}, headers={"Prefer": "wait=30"})
        assert answer.json()["output"] == 18
        wait_until(lambda: client.get(f"{data}/ready").json()["checks"]["broker"] == "up", 20, "the broker to be heard")
    with operator(locked.valkey) as admin:
        assert admin.acl_log() == []


class Canary:
    """Makes a folder when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.file),)


def test_a_pickle_runs_nowhere_whichever_way_it_comes(locked: Locked, tmp_path: Path) -> None:
    evil = pickle.dumps(Canary(tmp_path / "canary"))
    array = io.BytesIO()
    np.save(array, np.array([Canary(tmp_path / "canary")], dtype=object), allow_pickle=True)
    pickle.loads(pickle.dumps(Canary(tmp_path / "is real")))
    assert (tmp_path / "is real").exists()

    def wire(content_type: str, encoding: str) -> bytes:
        """As kombu would send it."""
        body = base64.b64encode(evil).decode()
        properties = {
            "delivery_tag": "1",
            "body_encoding": encoding,
            "delivery_info": {"exchange": "", "routing_key": ""},
        }
        message = {"body": body, "content-type": content_type, "content-encoding": "binary", "properties": properties}
        return json.dumps(message | {"headers": {"task": "headway.predict", "id": "1"}}).encode()

    # What is no message at all is left out: it ends the worker's Celery, which takes seconds to be back.
    messages = [wire(kind, "base64") for kind in ("application/x-python-serialize", "application/data", "")]
    with operator(locked.valkey) as admin:
        for message in messages:
            for line in ("headway:double@1:0", "headway:double@1:1", "headway:double@1:3"):
                admin.lpush(line, message)
            for channel in (
                "headway:notices",
                "headway:cancels",
                "headway:reports",
                "/0.celery.pidbox",
                "/0.celeryev/x",
            ):
                admin.publish(channel, message)
    data = locked.up.data_url
    with locked.as_operator() as client:
        for kind in (
            "application/x-npy",
            "application/octet-stream",
            "application/json",
            "application/x-python-serialize",
        ):
            for body in (evil, array.getvalue()):
                url = f"{data}/v1/models/double/predictions"
                answer = client.post(url, content=body, headers={"Content-Type": kind, "Prefer": "wait=30"})
                assert answer.status_code < 500
        for _ in range(3):
            answer = client.post(
                f"{data}/v1/models/double/predictions", json={"input": 4}, headers={"Prefer": "wait=60"}
            )
            assert answer.json()["output"] == 8, answer.text
        answer = client.post(f"{data}/v1/models/pickles/predictions", json={"input": 4}, headers={"Prefer": "wait=30"})
        assert answer.json()["error"]["code"] == "output_invalid", answer.text
    assert list(tmp_path.iterdir()) == [tmp_path / "is real"]
    assert not list(locked.up.folder.rglob("canary of results"))


def test_the_redis_user_can_do_nothing_else(locked: Locked, secrets: Secrets) -> None:
    with redis.Redis(port=locked.valkey, username="headway", password=secrets.redis) as client:
        for words in (
            ["FLUSHALL"], ["CONFIG", "GET", "*"], ["KEYS", "*"], ["SCAN", "0"], ["ACL", "LIST"], ["GET", "headway:x"],
            ["MONITOR"], ["SHUTDOWN"], ["MODULE", "LIST"], ["REPLICAOF", "NO", "ONE"],
            ["LPUSH", "another", "x"], ["PUBLISH", "another", "x"], ["CLIENT", "LIST"], ["EVAL", "return 1", "0"],
            ["DUMP", "headway:x"], ["MIGRATE", "h", "1", "", "0", "1"],
        ):  # fmt: skip
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*words)
    for user, password in (("default", ""), ("headway", "wrong"), (None, None)):
        stranger = redis.Redis(port=locked.valkey, username=user, password=password, retry=Retry(NoBackoff(), 0))
        with stranger, pytest.raises((redis.exceptions.AuthenticationError, redis.exceptions.NoPermissionError)):
            stranger.ping()
    with operator(locked.valkey) as admin:
        admin.acl_log_reset()


def test_a_broker_without_the_right_certificate_is_not_spoken_to(locked: Locked, secrets: Secrets) -> None:
    url = f"rediss://headway:{secrets.redis}@localhost:{locked.tls.port}/0"
    with (
        redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0)) as client,
        pytest.raises(redis.ConnectionError, match="CERT"),
    ):
        client.ping()
    with contextlib.closing(socket.create_connection(("127.0.0.1", locked.tls.port))) as plain:
        plain.sendall(b"PING\r\n")
        assert b"PONG" not in plain.recv(100)


def test_the_role_that_serves_cannot_change_the_schema(locked: Locked) -> None:
    with psycopg.connect(locked.serving, autocommit=True) as connection:
        for statement in (
            "CREATE TABLE mine (x int)", "CREATE TEMPORARY TABLE mine (x int)", "DROP TABLE predictions",
            "ALTER TABLE predictions ADD COLUMN x int", "CREATE INDEX ON predictions (size)", "TRUNCATE predictions",
            "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'", "CREATE ROLE mine",
            "COPY predictions TO PROGRAM 'true'", "SELECT pg_read_file('/etc/passwd')", "SET ROLE headway_migrate",
        ):  # fmt: skip
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement.encode())


def test_no_secret_stands_where_somebody_may_read_it(locked: Locked, secrets: Secrets, postgres_server: Any) -> None:
    seen: dict[str, str] = {"migrate": "".join(locked.said)}
    with locked.as_operator() as client:
        data, control = locked.up.data_url, locked.up.control_url
        for name, answer in {
            "not found": client.get(f"{data}/v1/predictions/{secrets.bootstrap[:8]}"),
            "refused": client.post(f"{data}/v1/models/double/predictions", content=b"{"),
            "ready": client.get(f"{data}/ready"),
            "metrics": client.get(f"{control}/metrics"),
            "models": client.get(f"{control}/v1/models"),
            "devices": client.get(f"{control}/v1/devices"),
            "keys": client.get(f"{control}/v1/keys"),
            "openapi": client.get(f"{data}/openapi.json"),
        }.items():
            seen[name] = answer.text + str(answer.headers)
    with httpx.Client(auth=("operator", secrets.flower), timeout=30) as flower:
        for page in ("/workers", "/broker", "/tasks", "/metrics", "/api/workers"):
            seen[f"flower {page}"] = flower.get(locked.up.flower_url + page).text
    # Connections that break, and a password that is wrong, are what drivers like to talk about.
    with psycopg.connect(postgres_server.get_uri(), autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'headway_runtime'")
    locked.tls.cut()
    broken = {
        "HEADWAY_DATABASE_URL": f"postgresql://headway_runtime:{secrets.database}@127.0.0.1:1/none",
        "HEADWAY_REDIS_URL": f"redis://headway:{secrets.redis}@127.0.0.1:1/0",
    }
    for words in (["migrate"], ["keys", "list"]):
        done = subprocess.run(
            [sys.executable, "-m", "launch", *words],
            env=os.environ | broken,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 2
        seen[" ".join(words)] = done.stdout + done.stderr
    for pid in descendants(locked.up.process.pid):
        seen[f"argv of {pid}"] = " ".join(command_line(pid))
    with operator(locked.valkey) as admin:
        for key in admin.scan_iter():
            seen[f"redis {key!r}"] = repr(admin.dump(key))
    with psycopg.connect(locked.migrating) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        for (table,) in tables:
            rows = connection.execute(sql.SQL("SELECT t::text FROM {} t").format(sql.Identifier(table))).fetchall()
            seen[f"table {table}"] = repr(rows)
        (signing,) = connection.execute("SELECT secret FROM webhook_secrets").fetchone() or ("",)
    seen["log"] = locked.up.log.read_text()
    assert signing in seen.pop("table webhook_secrets")
    leaks = [(where, one) for where, text in seen.items() for one in (*secrets.all(), signing) if one in text]
    assert leaks == []
