"""What a prediction costs under load, counted and not timed: statements, commands of Redis, bytes.

A whole Headway, on each store. Its API is stopped while 448 callers write a request each, so that all of them are there
at one tick, as they are in a flood; then every statement of every process is counted (`tests/counting`), and Valkey
counts its own commands. What goes on by the clock, whatever the load, is left out by name.

Whoever adds a statement or a command to the way of a prediction finds it here, and says in these numbers what it costs.
"""

import asyncio
import contextlib
import os
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec
import pytest
import redis

from bench.load import Connection
from headway.running import RunningHeadway
from headway.testing import wait_until
from storage.statements import statements
from tests.counting.sitecustomize import beginning
from tests.postgres import create
from tests.receiver import Receiver

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the processes in /proc")

ROOT = Path(__file__).resolve().parent.parent.parent

BATCH = 64
CALLERS = 7 * BATCH
#: Of the device; one may leave before the others are there.
CALLS = 8

ECHO = """
from headway import Model

class Echo(Model):
    def predict(self, inputs):
        return inputs
"""

#: Statements that come by the clock and not by the prediction.
BY_THE_CLOCK = {
    *("all_aliases", "all_keys", "all_placements", "all_routes", "all_versions", "beats", "lease_left", "classes"),
    *("backlog", "waiting", "worker_claims", "served", "beat", "now", "device_stats", "SELECT 1"),
    *("open_batches", "due_receivers", "hold_lease", "dead_claims", "forget_dead", "forget_placements"),
    *("forget_holdings", "expire", "purge", "purge_page", "purge_blobs", "purge_inputs", "purge_deliveries"),
    *("purge_predictions", "purge_batches", "abandon_batch"),
}


class Most(NamedTuple):
    """Statements that there may be, and that there were when this was written."""

    a_tick: int  # to accept 448 submissions, in up to three groups
    a_call: int  # to claim and finish what the device computes at once


MOST = {"sqlite": Most(a_tick=36, a_call=7), "postgresql": Most(a_tick=6, a_call=2)}

#: How those begin with which a driver gets to know a new connection.
_OPENING = (
    "select pg_catalog.version",
    "show standard_conforming",
    "select current_schema",
    "SELECT t.oid",
    "show transaction",
)


class Counted:
    """What was sent between two moments."""

    def __init__(self, sent: Counter[tuple[str, str]], commands: Counter[str], received: int, answered: int) -> None:
        self.sent = sent  # (part, name of the statement) → how often
        self.commands = commands  # of Redis
        self.received = received  # bytes, by Redis
        self.answered = answered  # bytes, by Redis

    def statements(self, *parts: str, besides: str = "") -> int:
        """Of these parts, or of all; without those of a name."""
        return sum(n for (part, name), n in self.sent.items() if part in (parts or (part,)) and name != besides)

    def __repr__(self) -> str:
        sent = "\n".join(f"{count:6} {part:8} {name}" for (part, name), count in self.sent.most_common())
        return f"{sent}\n{dict(self.commands)}\n{self.received} bytes in, {self.answered} out"


class Counting:
    """A running Headway whose work is counted."""

    def __init__(self, headway: RunningHeadway, statements_file: Path, redis_url: str, dialect: str) -> None:
        self.headway = headway
        self.dialect = dialect
        self._file = statements_file
        self._redis = redis.Redis.from_url(redis_url)
        named = statements("sqlite" if dialect == "sqlite" else "postgresql")
        self._names = {beginning(sql): name for name, sql in named.items()}
        self._api = headway.pid_of("api")
        self._host = headway.data_url.removeprefix("http://")
        self._start = 0

    def begin(self) -> None:
        self._redis.config_resetstat()
        self._start = len(self._file.read_bytes())

    def end(self) -> Counted:
        commands = {
            name.removeprefix("cmdstat_"): one["calls"] for name, one in self._redis.info("commandstats").items()
        }
        stats = self._redis.info("stats")
        sent = Counter(self._named(line) for line in self._file.read_bytes()[self._start :].decode().splitlines())
        return Counted(
            Counter({one: count for one, count in sent.items() if one[1] not in BY_THE_CLOCK and one[1] != ""}),
            Counter(
                {name: n for name, n in commands.items() if not name.startswith(("config", "client", "hello", "info"))}
            ),
            stats["total_net_input_bytes"],
            stats["total_net_output_bytes"],
        )

    def _named(self, line: str) -> tuple[str, str]:
        part, _, statement = line.partition("\t")
        return part, "" if statement.startswith(_OPENING) else self._names.get(statement, statement[:100])

    def at_once(self, *requests: bytes) -> list[tuple[int, Any]]:
        """(status, body) of each, all of which lie there when the API looks."""
        return asyncio.run(self._at_once(requests))

    async def _at_once(self, requests: Sequence[bytes]) -> list[tuple[int, Any]]:
        loop = asyncio.get_running_loop()
        port = int(self._host.rpartition(":")[2])
        callers = [(await loop.create_connection(Connection, "127.0.0.1", port))[1] for _ in requests]
        await asyncio.gather(*[caller.ask(self.request("GET", "/health")) for caller in callers])  # they are accepted
        self.begin()
        os.kill(self._api, signal.SIGSTOP)
        try:
            asked = [asyncio.ensure_future(c.ask(request)) for c, request in zip(callers, requests, strict=True)]
            await asyncio.sleep(0)  # each has written
            await asyncio.sleep(0)
        finally:
            os.kill(self._api, signal.SIGCONT)
        answers = await asyncio.gather(*asked)
        for caller in callers:
            caller.transport.close()
        return [(status, msgspec.json.decode(body)) for status, body in answers]

    def request(self, method: str, path: str, body: bytes = b"", headers: str = "") -> bytes:
        typed = "Content-Type: application/json\r\n" if body else ""
        head = f"{method} {path} HTTP/1.1\r\nHost: {self._host}\r\n{typed}Content-Length: {len(body)}\r\n{headers}\r\n"
        return head.encode() + body

    def submissions(self, headers: str = "", **fields: Any) -> list[bytes]:
        body = msgspec.json.encode({"input": [0.5] * 10, **fields})
        return [self.request("POST", "/v1/models/counted/predictions", body, headers)] * CALLERS

    def statuses(self, ids: list[str], name: str = "status") -> set[str]:
        """Of the first, the last, and some between."""
        with httpx.Client(base_url=self.headway.data_url) as client:
            return {client.get(f"/v1/predictions/{id_}").json()[name] for id_ in (*ids[:: BATCH // 2], ids[-1])}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def counting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Counting]:
    folder = tmp_path_factory.mktemp("counts")
    (folder / "models" / "counted" / "1").mkdir(parents=True)
    (folder / "models" / "counted" / "1" / "model.py").write_text(ECHO)
    (folder / "models" / "counted" / "model.toml").write_text(f"[batching]\nmax_batch_size = {BATCH}\n")
    options = ["--redis-url", request.getfixturevalue("redis_url")]
    if request.param == "postgresql":
        options += ["--database-url", request.getfixturevalue("counted_postgres_url")]
    file = folder / "statements"
    environ = {
        "PYTHONPATH": f"{ROOT / 'tests' / 'counting'}:{ROOT}",
        "COUNTED_STATEMENTS": str(file),
        "HEADWAY_WEBHOOK_ALLOW": "127.0.0.0/8",
    }
    with RunningHeadway(folder, options=options, environ=environ) as running:
        yield Counting(running, file, request.getfixturevalue("redis_url"), request.param)


@pytest.fixture(scope="module")
def counted_postgres_url(postgres_server: Any, _postgres_template: str) -> str:
    url: str = postgres_server.get_uri(create(postgres_server, _postgres_template))
    return url


def test_a_submission_costs_its_share_of_a_few_statements(counting: Counting) -> None:
    answers = counting.at_once(*counting.submissions())
    ids = [body["id"] for _, body in answers]
    wait_until(lambda: counting.statuses(ids) == {"succeeded"}, 20, "predictions to end")
    counted = counting.end()
    assert {status for status, _ in answers} == {202}
    most = MOST[counting.dialect]
    assert counted.statements("api", besides="read") <= most.a_tick, counted
    assert counted.statements("worker") <= most.a_call * CALLS, counted
    assert counted.statements("api", "worker", besides="read") <= 0.3 * CALLERS, counted
    assert counted.commands.total() <= 0.1 * CALLERS, counted
    assert counted.received <= 240 * CALLERS, counted
    assert counted.answered <= 240 * CALLERS, counted


def test_who_waits_for_a_result_or_asks_for_it_adds_next_to_nothing(counting: Counting) -> None:
    answers = counting.at_once(*counting.submissions("Prefer: wait=30\r\n"))
    waited = counting.end()
    assert {(status, body["status"]) for status, body in answers} == {(200, "succeeded")}
    most = MOST[counting.dialect]
    assert waited.statements("api") <= most.a_tick, waited
    assert waited.statements("worker") <= most.a_call * CALLS, waited
    assert waited.commands["publish"] <= CALLS + 2, waited  # a notice a call, whoever waits
    assert waited.commands.total() <= 0.1 * CALLERS, waited

    answers = counting.at_once(*[counting.request("GET", f"/v1/predictions/{body['id']}") for _, body in answers])
    asked = counting.end()
    assert {(status, body["status"]) for status, body in answers} == {(200, "succeeded")}
    assert asked.statements("api") <= 2, asked
    assert asked.statements("worker") == 0, asked
    assert asked.commands.total() <= 0.05 * CALLERS, asked  # those that come by the clock


def test_a_webhook_costs_its_share_of_groups(counting: Counting) -> None:
    with contextlib.closing(Receiver()) as receiver:
        answers = counting.at_once(*counting.submissions(webhook=receiver.url))
        ids = [body["id"] for _, body in answers]
        wait_until(lambda: len(receiver.got) >= CALLERS, 30, "deliveries")
        wait_until(lambda: counting.statuses(ids, "webhook_status") == {"succeeded"}, 20, "their results to be stored")
        counted = counting.end()
    assert len({got.id for got in receiver.got}) == CALLERS
    assert counted.statements("api", "worker", besides="read") <= 0.3 * CALLERS, counted
    assert counted.statements("utility") <= 0.3 * CALLERS, counted  # a delivery: its lease, its result, what is told
    assert counted.commands.total() <= 0.1 * CALLERS, counted


def test_an_item_of_a_batch_costs_its_share_of_blocks_and_calls(counting: Counting) -> None:
    lines = 3_000
    file = b"".join(b'{"input":%d}\n' % number for number in range(lines))
    typed = {"content-type": "application/x-ndjson"}
    with httpx.Client(base_url=counting.headway.data_url) as client:
        counting.begin()
        batch = client.post("/v1/batches?model=counted", content=file, headers=typed).json()

        def completed() -> bool:
            return bool(client.get(batch["urls"]["get"]).json()["status"] == "completed")

        wait_until(completed, 30, "the batch to be completed")
        counted = counting.end()
    assert counted.statements(besides="read_batch") <= 0.2 * lines, counted
    assert counted.statements("worker") <= MOST[counting.dialect].a_call * (lines / BATCH + 2), counted
    assert counted.commands.total() <= 0.1 * lines, counted
