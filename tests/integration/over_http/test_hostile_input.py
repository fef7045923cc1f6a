"""What hostile and broken clients send, on every route that could take it: a known answer, never a 5xx, and the next
good request is served.

The rows are numbered as in the project's catalogue of bad inputs. The routes come from the app's own tables, so a new
route is covered by being there. Bytes go over raw sockets, since no client library would send them.
"""

import gzip
import http.client
import json
import re
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import numpy as np
import pytest

from api.app import CONTROL, DATA
from api.endpoint import Endpoint
from api.requests import CreateBody
from headway import npy
from headway.clock import new_id
from headway.keys import Scope, new_token
from headway.manifest import parse
from headway.testing import wait_until
from headway.versions import Found
from storage.keys import Keys
from storage.models import Models
from tests import spellings

if TYPE_CHECKING:
    from tests.integration.over_http.conftest import Stack

UNKNOWN = "01234567-89ab-7def-8123-456789abcdef"
NAMES = {"model": "echo", "version": "2", "alias": "stable", "id": UNKNOWN, "code": "forbidden"}
MOST_BODY = 100_000
READ_S = 2

ROUTES = [("data", endpoint) for endpoint in DATA] + [("control", endpoint) for endpoint in CONTROL]
CLOSED = [(plane, endpoint) for plane, endpoint in ROUTES if endpoint.scope is not None]
JSON = {"content-type": "application/json"}

#: What a body of JSON is on each route that takes one: around a value, and one that is good; True: any value is.
BODIES: dict[tuple[str, str], tuple[bytes, bytes, bool]] = {
    ("POST", "/v1/models/{model}/predictions"): (b'{"input": %b}', b"1", True),
    ("POST", "/v1/models/{model}/versions/{version}/predictions"): (b'{"input": %b}', b"1", True),
    ("POST", "/v1/models/{model}:predict"): (b'{"instances": [%b]}', b"1", True),
    ("POST", "/v1/models/{model}/versions/{version}:predict"): (b'{"instances": [%b]}', b"1", True),
    ("POST", "/v1/models/{model}/aliases/{alias}:predict"): (b'{"instances": [%b]}', b"1", True),
    ("POST", "/v1/keys"): (b'{"name": %b}', b'"x"', False),
    ("PUT", "/v1/models/{model}/aliases/{alias}"): (b'{"version": %b}', b'"2"', False),
    ("PUT", "/v1/models/{model}/traffic"): (b'{"versions": %b}', b"{}", False),
}
WITH_BODY = [(plane, endpoint) for plane, endpoint in ROUTES if (endpoint.method, endpoint.path) in BODIES]
CREATES = [(plane, endpoint) for plane, endpoint in WITH_BODY if endpoint.path.endswith("/predictions")]
FREE = [(plane, endpoint) for plane, endpoint in WITH_BODY if BODIES[endpoint.method, endpoint.path][2]]
FILES = [("data", endpoint) for endpoint in DATA if endpoint.path == "/v1/batches" and endpoint.method == "POST"]


def good_body(endpoint: Endpoint) -> bytes:
    """Empty for a route that reads none."""
    known = BODIES.get((endpoint.method, endpoint.path))
    return b"" if known is None else known[0] % known[1]


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        return str(json.loads(self.body)["code"]) if "problem" in self.headers.get("content-type", "") else ""


class Edge:
    """A guarded API, asked over one raw connection a plane that is opened again when it was closed."""

    def __init__(self, stack: "Stack", tokens: dict[str, str]) -> None:
        self.stack = stack
        self.tokens = tokens
        self.ports = {"data": stack.api.port, "control": int(stack.api.control_url.rpartition(":")[2])}
        self._open: dict[str, socket.socket] = {}

    def connect(self, plane: str = "data") -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.ports[plane]), timeout=20)

    def send(self, request: bytes, plane: str = "data", *, head: bool = False) -> Reply:
        """On the plane's kept connection. An answer that streams is only begun."""
        for _ in range(2):
            kept = self._open.pop(plane, None)
            connection = kept or self.connect(plane)
            try:
                connection.sendall(request)
                reply, keep = read_reply(connection, head=head)
            except (ConnectionError, http.client.HTTPException):
                connection.close()
                if kept is None:
                    raise
                continue
            if keep:
                self._open[plane] = connection
            else:
                connection.close()
            return reply
        raise AssertionError("a new connection was closed without an answer")

    def ask(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        *,
        plane: str = "data",
        token: str | None = "admin",
    ) -> Reply:
        sent = {"host": "localhost", "content-length": str(len(body))}
        if token is not None:
            sent["authorization"] = f"Bearer {self.tokens[token]}"
        return self.send(head(method, target, sent | (headers or {})) + body, plane, head=method == "HEAD")

    def metrics(self) -> str:
        return self.ask("GET", "/metrics", plane="control").body.decode()

    def is_well(self) -> None:
        """The next good request, on a connection of its own, is served."""
        self.close()
        for plane in self.ports:
            assert self.ask("GET", "/v1/models", plane=plane).status == 200
        assert self.stack.api.process.poll() is None

    def close(self) -> None:
        for connection in self._open.values():
            connection.close()
        self._open.clear()


def head(method: str, target: str, headers: dict[str, str], version: str = "1.1") -> bytes:
    lines = [f"{method} {target} HTTP/{version}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def read_reply(connection: socket.socket, *, head: bool = False) -> tuple[Reply, bool]:
    """(the next answer, whether the connection may be used again)"""
    response = http.client.HTTPResponse(connection, method="HEAD" if head else "GET")
    response.begin()
    headers = {name.lower(): value for name, value in response.getheaders()}
    endless = headers.get("content-type") in ("text/event-stream", "application/x-ndjson")
    body = b"" if endless else response.read()
    keep = not endless and headers.get("connection") != "close"
    response.close()
    return Reply(response.status, headers, body), keep


def path_of(endpoint: Endpoint, **names: str) -> str:
    return re.sub(r"{(\w+)}", lambda found: (NAMES | names)[found[1]], endpoint.path)


def problem(reply: Reply, status: int | Iterable[int], code: str | Iterable[str], where: object = "") -> Reply:
    """It is one of these, and gives nothing away."""
    statuses = {status} if isinstance(status, int) else set(status)
    codes = {code} if isinstance(code, str) else set(code)
    assert reply.status in statuses, (where, reply)
    assert reply.code in codes, (where, reply)
    assert len(reply.body) < 2500, where
    for told in (b"Traceback", b'File \\"', b"sqlalchemy", b"site-packages", b"SELECT "):
        assert told not in reply.body, where
    return reply


def opened_edge(database_url: str) -> Iterator[Edge]:
    from tests.integration.over_http.conftest import Stack

    tokens = {"bootstrap": new_token()}
    with ExitStack() as opened:
        stack = Stack(
            database_url,
            HEADWAY_BOOTSTRAP_KEY=tokens["bootstrap"],
            HEADWAY_MAX_BODY_BYTES=str(MOST_BODY),
            HEADWAY_MAX_BATCH_LINES="1000",
            HEADWAY_READ_TIMEOUT=str(READ_S),
        )
        opened.callback(stack.close)
        tomls: dict[str, dict[str, Any]] = {
            "fetching": {"inputs": {}, "model": {"fetch_urls": True}},
            "narrow": {"batching": {"max_queue": 1}},
        }
        for name, toml in tomls.items():
            found = Found(model=name, version="1", path=Path("/nowhere"), manifest=parse(toml))
            Models(stack.database).register(found)
        keys = Keys(stack.database)
        scopes: dict[str, tuple[Scope, ...]] = {"admin": ("admin",), "predict": ("predict",), "read": ("read",)}
        for name, granted in scopes.items():
            tokens[name] = new_token()
            keys.add(tokens[name], tenant_id="default", scopes=granted, name=name)
        for name, rate in (("other", None), ("rare", 0.5), ("revoked", None)):
            tokens[name] = new_token()
            key = keys.add(tokens[name], tenant_id=name, scopes=("admin",), name=name, rate=rate)
        keys.revoke(key.id)
        edge = Edge(stack, tokens)
        opened.callback(edge.close)
        wait_until(lambda: edge.ask("GET", "/v1/models", token="other").status == 200, 10)
        wait_until(lambda: edge.ask("GET", "/v1/models/narrow").status == 200, 10)
        yield edge
        surprising = re.findall(r'^headway_api_requests_total\{.*status="5\d\d".*$', edge.metrics(), re.MULTILINE)
        assert surprising == []


@pytest.fixture(scope="module")
def on_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    yield from opened_edge(f"sqlite:///{tmp_path_factory.mktemp('edge')}/headway.db")


@pytest.fixture(scope="module")
def on_postgresql(postgres_server: Any) -> Iterator[Edge]:
    import psycopg

    with psycopg.connect(postgres_server.get_uri(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE edge TEMPLATE template1")
    yield from opened_edge(postgres_server.get_uri("edge"))


@pytest.fixture
def edge(on_sqlite: Edge) -> Iterator[Edge]:
    """Whatever a test has sent, the next good request is served."""
    yield on_sqlite
    on_sqlite.is_well()


@pytest.fixture(params=["on_sqlite", "on_postgresql"])
def either(request: pytest.FixtureRequest) -> Iterator[Edge]:
    """For values that reach SQL: each store has its own that it cannot take."""
    edge: Edge = request.getfixturevalue(request.param)
    yield edge
    edge.is_well()


def test_every_route_that_reads_json_is_known_here(edge: Edge) -> None:
    reading = set()
    for plane, endpoint in CLOSED:
        if endpoint.method in ("POST", "PUT", "PATCH"):
            reply = edge.ask(endpoint.method, path_of(endpoint), b"[", JSON, plane=plane)
            if reply.code == "malformed_request":
                reading.add((endpoint.method, endpoint.path))
    assert reading == set(BODIES)


# Bodies (rows 1 to 18)

MALFORMED = {
    "row 1: empty": b"",
    "row 1: white space": b" \r\n\t",
    "row 2: truncated": b'{"input": 1',
    "row 2: cut in a string": b'{"input": "a',
    "row 2: two values": b'{"input": 1}{"input": 2}',
    "row 2: a comma too many": b'{"input": 1,}',
    "row 2: single quotes": b"{'input': 1}",
    "row 12: not UTF-8": b'{"input": "\xff\xfe"}',
    "row 12: overlong": b'{"input": "\xc0\xaf"}',
    "row 12: a surrogate in UTF-8": b'{"input": "\xed\xa0\x80"}',
    "row 13: UTF-16": '{"input": 1}'.encode("utf-16"),
    "row 13: UTF-16 without a mark": '{"input": 1}'.encode("utf-16-le"),
    "row 13: UTF-32": '{"input": 1}'.encode("utf-32"),
    "row 13: a byte order mark": b'\xef\xbb\xbf{"input": 1}',
}
VALUES = {
    "row 3: NaN": b"NaN",
    "row 3: Infinity": b"Infinity",
    "row 3: -Infinity": b"[-Infinity]",
    "row 4: 1e400": b"1e400",
    "row 4: -1e999999999": b"[-1e999999999]",
    "row 5: an integer of 5,000 digits": b"9" * 5000,
    "row 7: nesting 500": b"[" * 500 + b"]" * 500,
    "row 7: nesting 65": b"[" * 65 + b"]" * 65,
    "row 8: arrays, 49,000 deep": b"[" * 49_000 + b"]" * 49_000,
    "row 8: arrays, 90,000 deep and not closed": b"[" * 90_000,
    "row 8: objects, 16,000 deep": b'{"a":' * 16_000 + b"1" + b"}" * 16_000,
    "row 11: a lone surrogate": b'"\\ud800"',
    "row 11: a lone surrogate as a name": b'{"\\udfff": 1}',
    "row 2: a raw control character": b'"a\x01"',
    "row 2: leading zeros": b"007",
    "row 2: hexadecimal": b"0x10",
    "row 2: a bare word": b"nul",
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_a_body_that_cannot_be_read_is_400(edge: Edge, body: bytes) -> None:
    for plane, endpoint in WITH_BODY:
        reply = edge.ask(endpoint.method, path_of(endpoint), body, JSON, plane=plane)
        problem(reply, 400, "malformed_request", endpoint.path)


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_a_value_that_is_no_json_or_too_deep_is_400_wherever_it_stands(edge: Edge, value: bytes) -> None:
    for plane, endpoint in WITH_BODY:
        around, *_ = BODIES[endpoint.method, endpoint.path]
        for body in (around % value, b'{"zz": %b}' % value):
            reply = edge.ask(endpoint.method, path_of(endpoint), body, JSON, plane=plane)
            problem(reply, 400, "malformed_request", (endpoint.path, body[:20]))


def test_row_6_a_float_of_5000_digits_is_a_number(edge: Edge) -> None:
    long = b"0." + b"1" * 5000
    for plane, endpoint in CREATES:
        assert edge.ask(endpoint.method, path_of(endpoint), b'{"input": %b}' % long, JSON, plane=plane).status == 202
        body = b'{"input": 1, "queue_timeout_seconds": -%b}' % long
        problem(edge.ask(endpoint.method, path_of(endpoint), body, JSON), 422, "validation_failed")


def test_row_8_depth_is_refused_fast(edge: Edge) -> None:
    for value in (b"[" * 49_000 + b"]" * 49_000, b"[" * 95_000, b'{"a":' * 15_000):
        began = time.monotonic()
        edge.ask("POST", "/v1/models/echo/predictions", b'{"input": %b}' % value, JSON)
        assert time.monotonic() - began < 1


def test_row_9_of_duplicate_keys_the_last_wins(edge: Edge) -> None:
    body = b'{"input": 1, "priority": 2, "input": {"a": 1, "a": 2}, "priority": 7}'
    for _, endpoint in CREATES:
        made = json.loads(edge.ask("POST", path_of(endpoint), body, JSON).body)
        read = json.loads(edge.ask("GET", f"/v1/predictions/{made['id']}?include=input").body)
        assert (read["priority"], read["input"]) == (7, {"a": 2})


#: Where a text is stored: around a JSON string.
TEXTS = [
    *[("data", "POST", path_of(e), b'{"input": 1, "metadata": {"k": %b}}') for _, e in CREATES],
    *[("data", "POST", path_of(e), b'{"input": 1, "metadata": {%b: "v"}}') for _, e in CREATES],
    ("data", "POST", "/v1/models/echo/predictions", b'{"input": 1, "version": %b}'),
    ("data", "POST", "/v1/models/echo/predictions", b'{"input": 1, "alias": %b}'),
    ("data", "POST", "/v1/models/echo/predictions", b'{"input": 1, "webhook": %b}'),
    ("control", "POST", "/v1/keys", b'{"name": %b}'),
    ("control", "POST", "/v1/keys", b'{"tenant": %b}'),
    ("control", "PUT", "/v1/models/echo/aliases/x", b'{"version": %b}'),
    ("control", "PUT", "/v1/models/echo/traffic", b'{"versions": {%b: 1}}'),
    ("control", "PUT", "/v1/models/echo/traffic", b'{"versions": {}, "shadow": [%b]}'),
    ("control", "PUT", "/v1/models/echo/traffic", b'{"versions": {}, "sticky": %b}'),
]


@pytest.mark.parametrize("text", [b'"\\u0000"', b'"a\\u0000b"'])
def test_row_10_nul_in_a_text_that_is_stored_does_not_fit(either: Edge, text: bytes) -> None:
    for plane, method, path, around in TEXTS:
        reply = either.ask(method, path, around % text, JSON, plane=plane)
        assert reply.status in (404, 422), (path, around, reply)


def test_rows_10_and_93_inputs_come_back_byte_for_byte(either: Edge) -> None:
    for value in (b'"\\u0000"', b"9007199254740993", b"[12345678901234567890, -9223372036854775809, 1.10]"):
        made = either.ask("POST", "/v1/models/echo/predictions", b'{"input": %b}' % value, JSON)
        assert made.status == 202
        id_ = json.loads(made.body)["id"]
        assert b'"input":' + value in either.ask("GET", f"/v1/predictions/{id_}?include=input").body
        either.stack.worker.run(id_)
        assert b'"output":' + value in either.ask("GET", f"/v1/predictions/{id_}").body


MEDIA = {
    "row 14: an odd charset": {"content-type": "application/json; charset=evil"},
    "row 14: UTF-16": {"content-type": "application/json; charset=utf-16"},
    "row 14: a long charset": {"content-type": "application/json; charset=" + "x" * 5000},
    "row 15: plain text": {"content-type": "text/plain"},
    "row 15: none": {},
    "row 15: empty": {"content-type": ""},
    "row 15: nonsense": {"content-type": ";;;,,,/"},
    "row 15: another JSON": {"content-type": "application/vnd.api+json"},
    "row 16: gzip": JSON | {"content-encoding": "gzip"},
    "row 16: br": JSON | {"content-encoding": "br"},
    "row 16: zstd": JSON | {"content-encoding": "zstd"},
    "row 16: chained": JSON | {"content-encoding": "gzip, gzip, gzip"},
    "row 56: a form": {"content-type": "application/x-www-form-urlencoded"},
    "row 56: multipart": {"content-type": "multipart/form-data; boundary=x"},
    "row 56: multipart, a bad boundary": {"content-type": "multipart/form-data; boundary=" + "a" * 3000},
}


@pytest.mark.parametrize("headers", MEDIA.values(), ids=MEDIA)
def test_anything_but_plain_json_is_415(edge: Edge, headers: dict[str, str]) -> None:
    for plane, endpoint in WITH_BODY:
        reply = edge.ask(endpoint.method, path_of(endpoint), b'{"input": 1}', headers, plane=plane)
        problem(reply, 415, "unsupported_media_type", endpoint.path)
    for _, endpoint in FILES:
        if headers.get("content-encoding") != "gzip":
            reply = edge.ask("POST", f"{endpoint.path}?model=echo", b'{"input": 1}', headers)
            problem(reply, 415, "unsupported_media_type", endpoint.path)


def test_row_56_no_parser_of_forms_is_installed() -> None:
    import importlib.util

    assert importlib.util.find_spec("multipart") is None
    assert importlib.util.find_spec("python_multipart") is None


@pytest.mark.parametrize("body", [b"[]", b"null", b'"input"', b"1", b"true", b'[{"input": 1}]'])
def test_row_17_what_is_no_object_does_not_fit(edge: Edge, body: bytes) -> None:
    for plane, endpoint in WITH_BODY:
        reply = edge.ask(endpoint.method, path_of(endpoint), body, JSON, plane=plane)
        problem(reply, 422, "validation_failed", endpoint.path)


@pytest.mark.parametrize("name", ["owner", "status", "tenant_id", "id", "__proto__", "n", "run_at", "callback" * 500])
def test_rows_18_and_76_there_are_no_other_fields(edge: Edge, name: str) -> None:
    for plane, endpoint in WITH_BODY:
        body = good_body(endpoint)[:-1] + f', "{name}": 1}}'.encode()
        reply = edge.ask(endpoint.method, path_of(endpoint), body, JSON, plane=plane)
        problem(reply, 422, "validation_failed", endpoint.path)


# Values (rows 19 to 29)

FIELDS = {
    "row 19: priority true": b'"priority": true',
    "row 20: priority as text": b'"priority": "5"',
    "row 21: priority 1e3": b'"priority": 1e3',
    "row 22: priority 10^30": b'"priority": 1' + b"0" * 30,
    "row 22: priority 2^63": b'"priority": 9223372036854775808',
    "row 22: priority -1": b'"priority": -1',
    "row 22: priority -0.0": b'"priority": -0.5',
    "row 23: timeout as text": b'"queue_timeout_seconds": "nan"',
    "row 23: timeout 0": b'"queue_timeout_seconds": 0',
    "row 23: timeout -1": b'"queue_timeout_seconds": -1',
    "row 23: timeout 1e9": b'"queue_timeout_seconds": 1e9',
    "row 23: timeout 1e308": b'"execution_timeout_seconds": 1e308',
    "row 23: execution timeout 0": b'"execution_timeout_seconds": 0.0',
    "row 77: max_attempts 10^9": b'"max_attempts": 1000000000',
    "row 77: max_attempts 0": b'"max_attempts": 0',
    "row 75: 17 keys": b'"metadata": {' + b", ".join(b'"k%d": ""' % n for n in range(17)) + b"}",
    "row 75: 5,000 keys": b'"metadata": {' + b", ".join(b'"k%d": ""' % n for n in range(5000)) + b"}",
    "row 75: a value of 90 kB": b'"metadata": {"k": "' + b"v" * 90_000 + b'"}',
    "row 75: a long key": b'"metadata": {"' + b"k" * 65 + b'": ""}',
    "row 75: numbers": b'"metadata": {"k": 1}',
    "row 70: an odd version": b'"version": "../../etc"',
    "row 70: an odd alias": b'"alias": "a/b"',
    "row 70: a version beyond 64 bits": b'"version": 99999999999999999999999999',
}


@pytest.mark.parametrize("field", FIELDS.values(), ids=FIELDS)
def test_a_field_out_of_its_range_does_not_fit(either: Edge, field: bytes) -> None:
    for _, endpoint in CREATES:
        reply = either.ask("POST", path_of(endpoint), b'{"input": 1, %b}' % field, JSON)
        if b"version" in field or b"alias" in field:
            problem(reply, (404, 422), ("version_not_found", "alias_not_found", "validation_failed"), endpoint.path)
        else:
            problem(reply, 422, "validation_failed", endpoint.path)


def test_row_75_no_field_of_a_create_is_without_bounds() -> None:
    assert set(CreateBody.__struct_fields__) == {
        "input", "version", "alias", "priority", "max_attempts", "metadata", "queue_timeout_seconds",
        "execution_timeout_seconds", "webhook", "webhook_events",
    }  # fmt: skip


def query_of(endpoint: Endpoint) -> list[str]:
    known = [each["name"] for each in endpoint.operation.get("parameters", ()) if each["in"] == "query"]
    undocumented = {
        "/v1/predictions/retry": ["status", "model", "version", "code", "tenant", "since", "until", "after", "limit"],
        "/v1/models/{model}/versions/{version}/shadows": ["limit", "after"],
    }
    return known or undocumented.get(endpoint.path, [])


@pytest.mark.parametrize("query", ["wait=nan", "wait=1", "%00=1", "%ff=%ff", "a", "a=b&c=d", "x" * 4000, "=", "[]=1"])
def test_row_24_there_are_no_other_parameters(edge: Edge, query: str) -> None:
    for plane, endpoint in CLOSED:
        if endpoint.path in ("/metrics", "/ui/events"):
            continue  # scrapers and browsers may add their own
        target = f"{path_of(endpoint)}?{query}"
        reply = edge.ask(endpoint.method, target, good_body(endpoint), JSON, plane=plane)
        problem(reply, 422, "validation_failed", (endpoint.method, endpoint.path))


@pytest.mark.parametrize(
    "value",
    [
        "1" + "0" * 400,
        "9" * 5000,
        "%D9%A1%D9%A2",
        "-1",
        "0",
        "1.5",
        "1e1",
        "%2B5",
        "0x10",
        "1_0",
        "nan",
        "",
        "%20",
        "%00",
    ],
    ids=["row 25: 10^400", "row 26: 5,000 digits", "row 27: Arabic digits", *"abcdefghijk"],
)
def test_a_number_in_the_query_is_plain_digits_in_its_range(either: Edge, value: str) -> None:
    for plane, endpoint in ROUTES:
        for name in query_of(endpoint):
            if name in ("limit", "priority"):
                more = {"/v1/predictions/retry": "status=failed&", "/v1/batches": "model=echo&"}.get(endpoint.path, "")
                if endpoint.method == "GET":
                    more = ""
                sent = {"content-type": "application/jsonl" if endpoint.path == "/v1/batches" else "image/png"}
                target = f"{path_of(endpoint)}?{more}{name}={value}"
                if name == "priority" and value == "0":
                    continue
                reply = either.ask(endpoint.method, target, b'{"input": 1}', sent, plane=plane)
                problem(reply, 422, "validation_failed", (endpoint.path, name))


def test_row_28_no_parameter_is_given_twice(edge: Edge) -> None:
    for plane, endpoint in ROUTES:
        for name in query_of(endpoint):
            raw = endpoint.path.endswith("/predictions") and endpoint.method == "POST"
            sent = {"content-type": "image/png" if raw else "application/jsonl"}
            target = f"{path_of(endpoint)}?{name}=1&{name}=2"
            reply = edge.ask(endpoint.method, target, b'{"input": 1}', sent, plane=plane)
            problem(reply, 422, "validation_failed", (endpoint.path, name))


CURSORS = ["x", "", "0", "%00", "..%2F", "%27%20OR%201=1--", UNKNOWN.upper(), UNKNOWN + "0", "9" * 5000, "%D9%A1"]


@pytest.mark.parametrize("cursor", CURSORS, ids=range(len(CURSORS)))
def test_row_29_a_cursor_that_nobody_gave_is_refused(either: Edge, cursor: str) -> None:
    for plane, endpoint in ROUTES:
        if "after" in query_of(endpoint) and "results" not in endpoint.path:
            more = "status=failed&" if endpoint.path == "/v1/predictions/retry" else ""
            target = f"{path_of(endpoint)}?{more}after={cursor}"
            problem(either.ask(endpoint.method, target, plane=plane), 400, "invalid_cursor", endpoint.path)


def test_row_29_another_tenants_cursor_shows_nothing_of_it(edge: Edge) -> None:
    made = edge.ask("POST", "/v1/models/echo/predictions", b'{"input": 1}', JSON)
    reply = edge.ask("GET", f"/v1/predictions?after={json.loads(made.body)['id']}", token="other")
    assert json.loads(reply.body)["data"] == []


# Names in paths (rows 30 to 34, 70)

IDS = {
    "row 30: NUL": "%00",
    "row 30: NUL behind an id": f"{UNKNOWN}%00",
    "row 31: not UTF-8": "%ff%fe",
    "row 32: a path": "..%2f..%2fetc",
    "row 32: a path, twice encoded": "%252e%252e%252f",
    "row 33: 7 kB": "a" * 7000,
    "row 33: a line break": f"{UNKNOWN}%0aX-Evil:1",
    "row 33: a terminal's words": "%1b[31mred%1b[0m",
    "row 70: a homoglyph": "%D0%B5cho",
    "row 70: right to left": "%E2%80%AEohce",
    "row 70: zero width": "ec%E2%80%8Bho",
    "row 70: CON": "CON",
    "row 70: dots": "...",
    "row 70: 300 characters": "x" * 300,
    "row 92: SQL": "'%20OR%20'1'='1",
    "row 92: a wildcard": "%25",
    "row 92: a wildcard of LIKE": "_" * 36,
    "row 94: a label": "x%22,evil=%22",
}
NOT_FOUND = ("not_found", "model_not_found", "version_not_found", "alias_not_found", "prediction_not_found",
             "batch_not_found", "delivery_not_found", "validation_failed")  # fmt: skip


@pytest.mark.parametrize("name", IDS.values(), ids=IDS)
def test_whatever_stands_in_place_of_a_name_there_is_nothing(either: Edge, name: str) -> None:
    for plane, endpoint in ROUTES:
        for part in re.findall(r"{(\w+)}", endpoint.path):
            target = path_of(endpoint, **{part: name})
            reply = either.ask(endpoint.method, target, good_body(endpoint), JSON, plane=plane)
            where = (endpoint.method, endpoint.path, part)
            problem(reply, (404, 422), NOT_FOUND, where)
            if part != "alias":  # of an alias that is to be made, the name itself does not fit
                assert reply.status == 404, where


def test_row_94_names_from_outside_are_no_labels(edge: Edge) -> None:
    for target in ("/evil-path", "/v1/models/evil-model/predictions", "/v1/models/evil-model", "/v1/predictions/evil"):
        edge.ask("GET", target)
        edge.ask("POST", target, b'{"input": 1}', JSON)
    assert "evil" not in edge.metrics()


def test_row_34_what_is_anothers_is_byte_for_byte_as_unknown_as_nothing(edge: Edge) -> None:
    made = edge.ask("POST", "/v1/models/echo/predictions", b'{"input": 1}', JSON)
    lines = {"content-type": "application/jsonl"}
    batch = edge.ask("POST", "/v1/batches?model=echo", b'{"input": 1}\n', lines)
    ids = {"predictions": json.loads(made.body)["id"], "batches": json.loads(batch.body)["id"]}
    compared = 0
    for endpoint in DATA:
        if "{id}" not in endpoint.path:
            continue
        kind = endpoint.path.split("/")[2]
        for headers in ({}, {"prefer": "wait=1"}, {"if-none-match": '"*"'}, {"last-event-id": "1"}):
            answers = [
                edge.ask(
                    endpoint.method, path_of(endpoint, id=id_), b"", {"x-request-id": "x", **headers}, token="other"
                )
                for id_ in (ids.get(kind, new_id()), UNKNOWN)
            ]
            told = [
                (
                    answer.status,
                    re.sub(rb"[0-9a-f-]{36}", b"ID", answer.body),
                    {name: value for name, value in answer.headers.items() if name != "date"},
                )
                for answer in answers
            ]
            assert told[0] == told[1], (endpoint.method, endpoint.path)
            assert told[0][0] == 404
            compared += 1
    assert compared >= 4 * 10


# HTTP itself (rows 35 to 50, 55, 57, 58, 88, 89)

HOSTS: dict[str, tuple[bytes, bytes]] = {
    "row 35: none": (b"", b"400"),
    "row 36: two": (b"host: localhost\r\nhost: localhost\r\n", b"400"),
    "row 36: two that differ": (b"host: localhost\r\nhost: evil.example.com\r\n", b"400"),
    "row 37: a path": (b"host: a/?x=\r\n", b"400"),
    "row 37: a user": (b"host: localhost@evil.example.com\r\n", b"400"),
    "row 37: empty": (b"host: \r\n", b"400"),
    "row 37: a tab": (b"host: local\thost\r\n", b"400"),
    "row 37: a port of letters": (b"host: localhost:http\r\n", b"400"),
    "row 37: not ASCII": (b"host: loc\xe4lhost\r\n", b"400"),
    "row 37: another": (b"host: 169.254.169.254\r\n", b"400"),
}


@pytest.mark.parametrize(("host", "status"), HOSTS.values(), ids=HOSTS)
def test_a_host_that_is_not_one_of_ours_is_400(edge: Edge, host: bytes, status: bytes) -> None:
    for plane, endpoint in ROUTES:
        line = f"{endpoint.method} {path_of(endpoint)} HTTP/1.1\r\ncontent-length: 0\r\n".encode()
        key = f"authorization: Bearer {edge.tokens['admin']}\r\n".encode()
        reply = edge.send(line + key + host + b"\r\n", plane)
        problem(reply, int(status), "malformed_request", endpoint.path)


TARGETS = {
    "row 38: absolute": "http://localhost{path}",
    "row 38: absolute, of another": "http://evil.example.com{path}",
    "row 38: absolute, with a user": "http://localhost@evil.example.com{path}",
    "row 38: another scheme": "file://{path}",
    "row 38: at": "@evil.example.com{path}",
    "row 38: no slash": "health",
    "row 38: an asterisk": "*",
    "row 38: only a query": "?x=1",
    "row 38: a fragment": "{path}#/v1/keys",
    "row 38: a space": "{path} /v1/keys",
    "row 38: not ASCII": "{path}/\xe4",
    "row 38: a backslash": "\\\\evil\\{path}",
}


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_a_target_that_is_no_path_is_400_whatever_route_it_means(edge: Edge, target: str) -> None:
    for plane, endpoint in ROUTES:
        reply = edge.ask(endpoint.method, target.replace("{path}", path_of(endpoint)), plane=plane)
        if target.startswith("\\"):
            problem(reply, (400, 404), ("malformed_request", "not_found"), endpoint.path)
        else:
            problem(reply, 400, "malformed_request", endpoint.path)


CHUNKED = b"b\r\n" + b'{"input":1}' + b"\r\n0\r\n\r\n"
FRAMES: dict[str, bytes] = {
    "row 39: -5": b"content-length: -5\r\n\r\n",
    "row 39: two that differ": b"content-length: 11\r\ncontent-length: 12\r\n\r\n",
    "row 39: two alike": b"content-length: 11\r\ncontent-length: 11\r\n\r\n",
    "row 39: a list": b"content-length: 5, 5\r\n\r\n",
    "row 39: a sign": b"content-length: +11\r\n\r\n",
    "row 39: hexadecimal": b"content-length: 0xb\r\n\r\n",
    "row 39: a space": b"content-length: 1 1\r\n\r\n",
    "row 39: empty": b"content-length: \r\n\r\n",
    "row 39: Arabic digits": "content-length: ١١\r\n\r\n".encode(),
    "row 39: beyond 64 bits": b"content-length: 99999999999999999999999999\r\n\r\n",
    "row 40: length and chunked": b"content-length: 11\r\ntransfer-encoding: chunked\r\n\r\n" + CHUNKED,
    "row 40: chunked and length": b"transfer-encoding: chunked\r\ncontent-length: 11\r\n\r\n" + CHUNKED,
    "row 41: xchunked": b"transfer-encoding: xchunked\r\n\r\n" + CHUNKED,
    "row 41: chunked, then more": b"transfer-encoding: chunked, identity\r\n\r\n" + CHUNKED,
    "row 41: gzip, then chunked": b"transfer-encoding: gzip, chunked\r\n\r\n" + CHUNKED,
    "row 41: chunked twice": b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n" + CHUNKED,
    "row 41: a space before the colon": b"transfer-encoding : chunked\r\n\r\n" + CHUNKED,
    "row 41: a vertical tab": b"transfer-encoding: \x0bchunked\r\n\r\n" + CHUNKED,
    "row 45: folded": b"x: a\r\n b\r\n\r\n",
    "row 45: NUL": b"x: a\0b\r\n\r\n",
    "row 45: a control character": b"x: a\x01b\r\n\r\n",
    "row 45: a bare LF": b"x: a\ny: b\r\n\r\n",
    "row 45: a bare CR": b"x: a\ry: b\r\n\r\n",
    "row 45: no colon": b"xyz\r\n\r\n",
    "row 45: no name": b": xyz\r\n\r\n",
    "row 45: a space in a name": b"x y: z\r\n\r\n",
}
#: The same, as seen when the body is read; a route that reads none has answered before.
BROKEN_CHUNKS = {
    "row 41: a size that is none": b"zz\r\n" + CHUNKED[3:],
    "row 41: a size of 20 digits": b"f" * 20 + b"\r\n" + CHUNKED[3:],
    "row 41: a negative size": b"-b\r\n" + CHUNKED[3:],
    "row 41: no line end": b'b\r\n{"input":1}0\r\n\r\n',
    "row 41: line feeds alone": b'b\n{"input":1}\n0\n\n',
}


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
def test_a_head_that_two_servers_could_read_differently_is_400(edge: Edge, frame: bytes) -> None:
    for plane, endpoint in ROUTES:
        line = f"{endpoint.method} {path_of(endpoint)} HTTP/1.1\r\nhost: localhost\r\n".encode()
        reply = edge.send(line + b"content-type: application/json\r\n" + frame, plane)
        problem(reply, 400, "malformed_request", endpoint.path)
        assert reply.headers["connection"] == "close"


@pytest.mark.parametrize("chunks", BROKEN_CHUNKS.values(), ids=BROKEN_CHUNKS)
def test_chunks_that_are_none_are_400(edge: Edge, chunks: bytes) -> None:
    for plane, endpoint in WITH_BODY:
        sent = {"host": "localhost", "authorization": f"Bearer {edge.tokens['admin']}", "transfer-encoding": "chunked"}
        reply = edge.send(head(endpoint.method, path_of(endpoint), sent | JSON) + chunks, plane)
        problem(reply, 400, "malformed_request", endpoint.path)


def test_row_41_chunked_is_of_http_1_1_only(edge: Edge) -> None:
    sent = {"host": "localhost", "authorization": f"Bearer {edge.tokens['admin']}", "transfer-encoding": "chunked"}
    request = head("POST", "/v1/models/echo/predictions", sent | JSON, "1.0")
    problem(edge.send(request + CHUNKED), 400, "malformed_request")


def test_row_41_what_comes_behind_the_chunks_is_no_header_of_the_request(edge: Edge) -> None:
    trailer = (
        f"authorization: Bearer {edge.tokens['admin']}\r\nhost: evil.example.com\r\nprefer: wait=60\r\n\r\n".encode()
    )
    sent = {"host": "localhost", "transfer-encoding": "chunked", **JSON}
    for token, status in ((None, 401), ("predict", 202)):
        key = {} if token is None else {"authorization": f"Bearer {edge.tokens[token]}"}
        request = head("POST", "/v1/models/echo/predictions", sent | key) + CHUNKED[:-2] + trailer
        reply = edge.send(request)
        assert (reply.status, reply.headers.get("preference-applied")) == (status, None)


def test_rows_42_and_43_heads_are_64_kb_and_100_fields_at_most(edge: Edge) -> None:
    heads = {
        "row 42: a header of 100 kB": (431, {"x": "a" * 100_000}),
        "row 42: a name of 100 kB": (431, {"x" * 100_000: "a"}),
        "row 42: 70 kB in all": (431, {f"x{n}": "a" * 1000 for n in range(70)}),
        "row 43: 2,000 headers": (431, {f"x{n}": "a" for n in range(2000)}),
        "row 43: 101 headers": (431, {f"x{n}": "a" for n in range(98)}),
        "row 43: 100 headers": (200, {f"x{n}": "a" for n in range(97)}),
        "row 42: 60 kB": (200, {"x": "a" * 60_000}),
        "row 58: an Accept of 50 kB": (200, {"accept": ",".join(["image/png;q=0.5"] * 3000)}),
    }
    for plane, target in (("data", "/v1/models"), ("control", "/v1/models"), ("data", "/health")):
        for what, (status, headers) in heads.items():
            if "100 headers" in what and target == "/health":
                continue
            reply = edge.ask("GET", target, b"", headers, plane=plane)
            assert (reply.status, reply.code) == (status, "headers_too_large" if status == 431 else ""), what


def test_row_44_a_target_is_8_kb_at_most(edge: Edge) -> None:
    for plane in ("data", "control"):
        for target in ("/" + "a" * 100_000, "/v1/models?" + "a=b&" * 3000):
            problem(edge.ask("GET", target, plane=plane), 414, "uri_too_long")
        reply = edge.send(b"GET /" + b"a" * 100_000, plane)  # without its end
        problem(reply, 414, "uri_too_long")


@pytest.mark.parametrize("method", ["FOO", "TRACE", "PROPFIND", "PATCH", "get", "Post", "M-SEARCH", "X" * 40, "PURGE"])
def test_row_46_a_method_that_a_path_has_not_is_405_with_those_it_has(edge: Edge, method: str) -> None:
    by_path: dict[tuple[str, str], set[str]] = {}
    for plane, endpoint in ROUTES:
        by_path.setdefault((plane, path_of(endpoint)), set()).add(endpoint.method)
    for (plane, path), methods in by_path.items():
        reply = problem(edge.ask(method, path, plane=plane), 405, "method_not_allowed", path)
        allowed = {*methods, *({"HEAD"} if "GET" in methods else ())}
        assert allowed <= set(reply.headers["allow"].split(", "))
        if (plane, path) not in {(p, path_of(e)) for p, e in ROUTES if e.scope is None}:
            problem(edge.ask(method, path, plane=plane, token=None), 401, "unauthenticated", path)


NO_HTTP = {
    "row 46: CONNECT": b"CONNECT localhost:22 HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "row 47: TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "row 47: HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "row 47: HTTP/2.0 in words": b"GET /health HTTP/2.0\r\nhost: localhost\r\n\r\n",
    "row 47: HTTP/3.0 in words": b"GET /health HTTP/3.0\r\nhost: localhost\r\n\r\n",
    "row 47: HTTP/0.9": b"GET /health\r\n\r\n",
    "row 47: another version": b"GET /health HTTP/1.9\r\nhost: localhost\r\n\r\n",
    "row 47: all bytes": bytes(range(256)),
    "row 47: bytes": b"\xde\xad\xbe\xef" * 300,
    "row 47: Redis": b"*1\r\n$4\r\nPING\r\n",
    "row 47: SSH": b"SSH-2.0-OpenSSH_9.9\r\n",
    "row 45: line feeds": b"GET /health HTTP/1.1\nhost: localhost\n\n",
}


@pytest.mark.parametrize("words", NO_HTTP.values(), ids=NO_HTTP)
def test_what_is_no_http_is_400(edge: Edge, words: bytes) -> None:
    for plane in ("data", "control"):
        problem(edge.send(words, plane), 400, "malformed_request")


def test_row_47_a_protocol_that_nobody_speaks_here_is_ignored_and_the_body_read(edge: Edge) -> None:
    for upgrade in ("h2c", "websocket"):
        asking = {"connection": "Upgrade, HTTP2-Settings", "upgrade": upgrade, "http2-settings": "AAMAAABk"}
        for pieces in (1, 2):
            with edge.connect() as connection:
                sent = {"host": "localhost", "authorization": f"Bearer {edge.tokens['admin']}"} | JSON | asking
                body = b'{"input": "GET /v1/keys HTTP/1.1\\r\\n"}'
                first = head("POST", "/v1/models/echo/predictions", sent | {"content-length": str(len(body))})
                if pieces == 1:
                    connection.sendall(first + body)
                else:
                    connection.sendall(first)
                    connection.sendall(body)
                assert read_reply(connection)[0].status == 202
                connection.sendall(head("GET", "/v1/models", sent | {"content-length": "0"}))
                assert read_reply(connection)[0].status == 200


def test_rows_48_and_50_a_body_whose_length_is_over_the_limit_is_413_before_it_is_read(edge: Edge) -> None:
    for plane, endpoint in [*WITH_BODY, *[("data", e) for _, e in CREATES]]:
        for length in (MOST_BODY + 1, 99_999_999_999, (1 << 63) - 1):
            for media in ({"content-type": "image/png"}, JSON) if (plane, endpoint) in CREATES else (JSON,):
                sent = {"host": "localhost", "authorization": f"Bearer {edge.tokens['admin']}", **media}
                with edge.connect(plane) as connection:
                    connection.sendall(
                        head(endpoint.method, path_of(endpoint), {**sent, "content-length": str(length)})
                    )
                    problem(read_reply(connection)[0], 413, "payload_too_large", endpoint.path)


def drip_for_long(connection: socket.socket, drop: bytes) -> None:
    give_up = time.monotonic() + 10 * READ_S
    while time.monotonic() < give_up:
        connection.sendall(drop)
        time.sleep(0.02)


def test_row_49_chunks_over_the_limit_are_413_at_the_limit_and_the_rest_is_not_taken_for_ever(edge: Edge) -> None:
    def endless(plane: str, endpoint: Endpoint) -> None:
        sent = {"host": "localhost", "authorization": f"Bearer {edge.tokens['admin']}", "transfer-encoding": "chunked"}
        with edge.connect(plane) as connection:
            connection.sendall(head(endpoint.method, path_of(endpoint), sent | JSON))
            chunk = b"1000\r\n" + b"a" * 0x1000 + b"\r\n"
            for _ in range(MOST_BODY // 0x1000 + 5):
                connection.sendall(chunk)
            problem(read_reply(connection)[0], 413, "payload_too_large", endpoint.path)
            with pytest.raises(ConnectionError):
                drip_for_long(connection, chunk)

    with ThreadPoolExecutor(len(WITH_BODY)) as pool:
        list(pool.map(lambda route: endless(*route), WITH_BODY))


def test_row_55_requests_in_one_piece_are_answered_in_order(edge: Edge) -> None:
    key = {"host": "localhost", "authorization": f"Bearer {edge.tokens['admin']}"}
    count = 500
    body = b'{"input": 1}'
    requests = [
        head("GET", f"/v1/predictions/{UNKNOWN}", key | {"x-request-id": f"r{n}", "content-length": "0"})
        if n % 5
        else head("POST", "/v1/models/nope/predictions", key | JSON | {"x-request-id": f"r{n}", "content-length": "12"})
        + body
        for n in range(count)
    ]
    with edge.connect() as connection, ThreadPoolExecutor(1) as sending:
        sent = sending.submit(connection.sendall, b"".join(requests))
        stream = b""
        seen: list[bytes] = []
        while len(seen) < count:
            stream += connection.recv(65536)
            seen = re.findall(rb"x-request-id: (r\d+)\r\n", stream)
        sent.result()
    assert seen == [b"r%d" % n for n in range(count)]


def test_row_55_what_comes_before_nonsense_is_answered_first(edge: Edge) -> None:
    key = {"host": "localhost", "authorization": f"Bearer {edge.tokens['admin']}", "content-length": "0"}
    with edge.connect() as connection:
        connection.sendall(head("GET", "/v1/models", key) + b"\0nonsense\r\n\r\n")
        assert read_reply(connection)[0].status == 200
        assert connection.recv(1000) == b""


GETS = [(plane, endpoint) for plane, endpoint in ROUTES if endpoint.method == "GET" and endpoint.path != "/ui/events"]
ODD_HEADERS = {
    "row 57: 10,000 ranges": {"range": "bytes=" + ",".join(["0-0"] * 10_000)},
    "row 57: a range": {"range": "bytes=0-0"},
    "row 57: no range": {"range": "bytes=-"},
    "row 58: a picture": {"accept": "image/png"},
    "row 58: nonsense": {"accept": ";;q=,,*/*;q=nan"},
    "row 58: a language": {"accept-language": "x" * 1000, "accept-encoding": "gzip;q=1e400, br"},
    "row 88: a long request id": {"x-request-id": "a" * 10_000},
    "row 88: an odd request id": {"x-request-id": "\x1b[31m".replace("\x1b", "") + "[31m evil"},
    "row 88: an address": {"x-request-id": "http://169.254.169.254/"},
    "row 89: forwarded": {"x-forwarded-for": "127.0.0.1", "x-forwarded-host": "evil.example.com",
                          "x-forwarded-proto": "https", "forwarded": "for=127.0.0.1;host=evil.example.com"},
    "row 90: a cookie": {"cookie": "session=" + "a" * 4000},
    "etag": {"if-none-match": '"' + "a" * 10_000 + '", ' * 10, "if-modified-since": "never"},
    "expect": {"expect": "the unexpected"},
    "override": {"x-http-method-override": "DELETE", "x-original-url": "/v1/keys", "x-rewrite-url": "/v1/keys"},
    "trace": {"traceparent": "00-" + "f" * 5000, "tracestate": "=,=,="},
}  # fmt: skip


@pytest.mark.parametrize("headers", ODD_HEADERS.values(), ids=ODD_HEADERS)
def test_headers_that_mean_nothing_here_change_nothing(edge: Edge, headers: dict[str, str]) -> None:
    for plane, endpoint in GETS:
        target = path_of(endpoint)
        plain, odd = (edge.ask("GET", target, b"", sent, plane=plane) for sent in ({}, headers))
        assert odd.status in (plain.status, 406), endpoint.path
        assert b"evil" not in odd.body + str(odd.headers).encode(), endpoint.path
        assert "set-cookie" not in odd.headers
        if "x-request-id" in headers:
            assert odd.headers["x-request-id"] != headers["x-request-id"]


def test_row_57_an_output_is_given_whole_and_fast_whatever_ranges_are_asked_for(edge: Edge) -> None:
    id_ = json.loads(edge.ask("POST", "/v1/models/echo/predictions", b'{"input": "abc"}', JSON).body)["id"]
    edge.stack.worker.run(id_)
    began = time.monotonic()
    reply = edge.ask("GET", f"/v1/predictions/{id_}/output", b"", ODD_HEADERS["row 57: 10,000 ranges"])
    assert (reply.status, reply.body) == (200, b'"abc"')
    assert time.monotonic() - began < 1
    problem(edge.ask("GET", f"/v1/predictions/{id_}/output", b"", {"accept": "image/png"}), 406, "not_acceptable")


# Slow clients (rows 50 to 54)

SLOW: dict[str, tuple[bytes, bytes]] = {
    "row 51: silence": (b"", b""),
    "row 51: line ends": (b"\r\n", b"\r\n"),
    "row 51: half a head": (b"GET /health HTTP/1.1\r\nhost: local", b""),
    "row 52: a byte a while of a head": (b"GET /health HTTP/1.1\r\nhost: localhost\r\nx: ", b"a"),
    "row 52: a header a while": (b"GET /health HTTP/1.1\r\nhost: localhost\r\n", b"x: y\r\n"),
    "row 51: half a body": (b"content-length: 500\r\n\r\n{", b""),
    "row 52: a byte a while of a body": (b"content-length: 5000\r\n\r\n{", b" "),
    "row 52: a chunk a while": (b"transfer-encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "row 52: what is no chunk yet": (b"transfer-encoding: chunked\r\n\r\n1;", b"xxxxxxxx"),
    "row 50: a length and silence": (b"content-length: 99999999999\r\n\r\n", b""),
}


def test_slow_clients_are_told_and_ended_on_every_route_that_reads(edge: Edge) -> None:
    jobs: list[tuple[str, Endpoint | None, bytes, bytes]] = [
        ("data", None, *SLOW[what]) for what in SLOW if not SLOW[what][0].startswith((b"content", b"transfer"))
    ]
    jobs += [("control", None, beginning, drop) for _, _, beginning, drop in jobs]
    jobs += [
        (plane, endpoint, *SLOW[what])
        for plane, endpoint in WITH_BODY
        for what in SLOW
        if SLOW[what][0].startswith((b"content", b"transfer"))
    ]

    def drip(plane: str, endpoint: Endpoint | None, beginning: bytes, drop: bytes) -> tuple[bytes, float]:
        if endpoint is not None:
            sent = {"host": "localhost", "authorization": f"Bearer {edge.tokens['admin']}", **JSON}
            beginning = head(endpoint.method, path_of(endpoint), sent)[:-2] + beginning
        with edge.connect(plane) as connection:
            connection.sendall(beginning)
            connection.settimeout(0.2)
            began, answer = time.monotonic(), b""
            while time.monotonic() - began < 15:
                try:
                    if drop:
                        connection.sendall(drop)
                    piece = connection.recv(65536)
                except TimeoutError:
                    continue
                except ConnectionError:
                    break
                answer += piece
                if not piece:
                    break
            return answer, time.monotonic() - began

    with ThreadPoolExecutor(len(jobs)) as pool:
        answers = list(pool.map(lambda job: drip(*job), jobs))
    for (plane, endpoint, beginning, _), (answer, took) in zip(jobs, answers, strict=True):
        where = (plane, endpoint and endpoint.path, beginning, answer)
        assert READ_S * 0.9 <= took < READ_S + 5, where
        if beginning in (b"", b"\r\n"):
            assert answer == b"", where
        elif b"99999999999" in beginning:
            assert answer.startswith(b"HTTP/1.1 413 "), where
        else:
            assert answer.startswith(b"HTTP/1.1 408 "), where
            assert b'"code":"request_timeout"' in answer, where


def test_a_connection_that_was_used_is_kept_for_longer_than_a_silent_one(edge: Edge) -> None:
    asking = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"
    with edge.connect() as used, edge.connect() as silent:
        used.sendall(asking)
        assert read_reply(used)[0].status == 200
        assert silent.recv(1) == b""
        used.sendall(asking)
        assert read_reply(used)[0].status == 200


def test_a_file_may_come_slowly_and_is_not_taken_for_a_slow_client(edge: Edge) -> None:
    sent = {"host": "localhost", "authorization": f"Bearer {edge.tokens['admin']}", "transfer-encoding": "chunked"}
    line = b'{"input": 1}\n'
    with edge.connect() as connection:
        connection.sendall(head("POST", "/v1/batches?model=echo", sent | {"content-type": "application/jsonl"}))
        began = time.monotonic()
        while time.monotonic() - began < 1.5 * READ_S:
            connection.sendall(b"%x\r\n%b\r\n" % (len(line), line))
            time.sleep(0.3)
        connection.sendall(b"0\r\n\r\n")
        assert read_reply(connection)[0].status == 202


def test_row_53_a_client_that_leaves_in_the_middle_of_its_body_leaves_nothing(edge: Edge) -> None:
    before = edge.metrics()
    for plane, endpoint in [*WITH_BODY, *FILES]:
        for linger in (False, True):
            media = {"content-type": "application/jsonl"} if (plane, endpoint) in FILES else JSON
            sent = {"host": "localhost", "authorization": f"Bearer {edge.tokens['admin']}", "content-length": "90000"}
            query = "?model=echo" if (plane, endpoint) in FILES else ""
            with edge.connect(plane) as connection:
                if linger:  # a reset, not a close
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.sendall(head(endpoint.method, path_of(endpoint) + query, sent | media) + b'{"input": 1')
    accepted = re.compile(r"^headway_api_accepted_total (\S+)$", re.MULTILINE)
    assert accepted.findall(edge.metrics()) == accepted.findall(before)


# Keys (rows 59 to 64)

CREDENTIALS: dict[str, list[str]] = {
    "row 59: none": [],
    "row 59: empty": [""],
    "row 59: the scheme alone": ["Bearer"],
    "row 59: Basic": ["Basic aHc6aHc="],
    "row 59: Digest": ['Digest username="a"'],
    "row 59: two in one": ["Bearer a, Bearer b"],
    "row 59: no scheme": ["TOKEN"],
    "row 60: unknown": ["Bearer hw_" + "x" * 40],
    "row 60: revoked": ["Bearer REVOKED"],
    "row 62: not ASCII": ["Bearer hw_\xe4\xf6\xfc"],
    "row 62: 10 kB": ["Bearer " + "x" * 10_000],
    "row 62: a prefix that is known": ["Bearer PREFIX" + "x" * 30],
}


@pytest.mark.parametrize("credentials", CREDENTIALS.values(), ids=CREDENTIALS)
def test_without_a_key_every_route_is_401_and_alike(edge: Edge, credentials: list[str]) -> None:
    bodies = set()
    for plane, endpoint in CLOSED:
        lines = [f"{endpoint.method} {path_of(endpoint)} HTTP/1.1", "host: localhost", "x-request-id: same"]
        for value in credentials:
            value = value.replace("TOKEN", edge.tokens["admin"]).replace("REVOKED", edge.tokens["revoked"])
            lines.append(f"authorization: {value.replace('PREFIX', edge.tokens['admin'][:11])}")
        # The body is never read: a stranger's is announced and does not come.
        lines += ["content-type: application/json", "content-length: 90000", "connection: close", "", ""]
        with edge.connect(plane) as connection:
            connection.sendall("\r\n".join(lines).encode("latin-1"))
            reply = problem(read_reply(connection)[0], 401, "unauthenticated", endpoint.path)
        assert reply.headers["www-authenticate"] == "Bearer"
        bodies.add(reply.body.replace(json.dumps(path_of(endpoint)[:200]).encode(), b"PATH"))
    assert len(bodies) == 1


def test_row_59_a_key_in_the_url_opens_nothing(edge: Edge) -> None:
    for plane, endpoint in CLOSED:
        for name in ("key", "api_key", "access_token", "token", "authorization"):
            target = f"{path_of(endpoint)}?{name}={edge.tokens['admin']}"
            problem(edge.ask(endpoint.method, target, plane=plane, token=None), 401, "unauthenticated", endpoint.path)


def test_row_61_two_authorization_headers_are_400(edge: Edge) -> None:
    key = f"authorization: Bearer {edge.tokens['admin']}\r\n"
    for plane, endpoint in CLOSED:
        line = f"{endpoint.method} {path_of(endpoint)} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n"
        problem(edge.send(f"{line}{key}{key}\r\n".encode(), plane), 400, "malformed_request", endpoint.path)


def test_row_63_a_key_without_the_scope_is_403(edge: Edge) -> None:
    for plane, endpoint in CLOSED:
        for name in {"predict", "read"} - {endpoint.scope}:
            reply = edge.ask(endpoint.method, path_of(endpoint), plane=plane, token=name)
            problem(reply, 403, "forbidden", endpoint.path)


def test_row_64_what_is_the_other_planes_is_not_here(edge: Edge) -> None:
    paths = {plane: {e.path for p, e in ROUTES if p == plane} for plane in ("data", "control")}
    for plane, endpoint in ROUTES:
        other = "control" if plane == "data" else "data"
        if endpoint.path not in paths[other]:
            reply = edge.ask(endpoint.method, path_of(endpoint), plane=other)
            # Some have the shape of another route: `retry` in place of an id.
            problem(reply, (404, 405), (*NOT_FOUND, "method_not_allowed"), endpoint.path)
            problem(edge.ask(endpoint.method, path_of(endpoint), plane=other, token=None), 401, "unauthenticated")


# Idempotency (rows 65 to 69)


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb", "\xe4", '"', '"a', '"a"b"', "a\x7f".replace("\x7f", "\xff")])
def test_row_65_an_idempotency_key_that_is_none_does_not_fit(edge: Edge, key: str) -> None:
    for _, endpoint in [*CREATES, *FILES]:
        file = (_, endpoint) in FILES
        media = {"content-type": "application/jsonl"} if file else JSON
        target = path_of(endpoint) + ("?model=echo" if file else "")
        reply = edge.ask("POST", target, b'{"input": 1}', media | {"idempotency-key": key})
        problem(reply, 422, "validation_failed", endpoint.path)


def test_rows_66_and_68_a_key_is_for_one_body_and_one_tenant(edge: Edge) -> None:
    for _, endpoint in CREATES:
        sent = JSON | {"idempotency-key": f"once-{endpoint.path}"}
        first = edge.ask("POST", path_of(endpoint), b'{"input": 1}', sent)
        again = edge.ask("POST", path_of(endpoint), b'{"input": 1}', sent)
        assert json.loads(first.body)["id"] == json.loads(again.body)["id"]
        problem(edge.ask("POST", path_of(endpoint), b'{"input": 2}', sent), 422, "idempotency_key_reused")
        other = edge.ask("POST", path_of(endpoint), b'{"input": 1}', sent, token="other")
        assert other.status == 202
        assert json.loads(other.body)["id"] != json.loads(first.body)["id"]


def test_rows_67_and_69_a_hundred_at_once_with_one_key_make_one(edge: Edge) -> None:
    for _, endpoint in CREATES:
        sent = JSON | {"host": "localhost", "authorization": f"Bearer {edge.tokens['admin']}", "content-length": "12"}
        request = (
            head("POST", path_of(endpoint), sent | {"idempotency-key": f"crowd-{endpoint.path}"}) + b'{"input": 1}'
        )
        with ExitStack() as opened:
            connections = [opened.enter_context(edge.connect()) for _ in range(100)]
            for connection in connections:
                connection.sendall(request)
            replies = [read_reply(connection)[0] for connection in connections]
        assert {reply.status for reply in replies} == {202}
        assert len({json.loads(reply.body)["id"] for reply in replies}) == 1


# Inputs (rows 71 to 75, 78)

PAIR_INPUTS = {
    "row 71: another dtype": b'["1", "2"]',
    "row 71: another shape": b"[1, 2, 3]",
    "row 71: ragged": b"[[1], [2, 3]]",
    "row 71: deeper": b"[[1, 2]]",
    "row 71: true": b"[true, false]",
    "row 71: null": b"[null, 1]",
    "row 71: beyond float32": b"[1e39, 1]",
    "row 71: an unknown input": b'{"x": [1, 2], "y": 1}',
    "row 71: none": b"{}",
    "row 72: base64 of an array": b'{"x": {"b64": "AAAA"}}',
    "row 74: a URL where numbers belong": b'{"url": "http://169.254.169.254/"}',
}


@pytest.mark.parametrize("value", PAIR_INPUTS.values(), ids=PAIR_INPUTS)
def test_an_input_that_does_not_fit_its_model_is_refused_before_it_is_queued(edge: Edge, value: bytes) -> None:
    for plane, endpoint in FREE:
        if "{alias}" in endpoint.path:
            continue  # the model has none
        around, *_ = BODIES[endpoint.method, endpoint.path]
        target = path_of(endpoint, model="pair", version="1")
        problem(edge.ask("POST", target, around % value, JSON, plane=plane), 422, "validation_failed", endpoint.path)


def npy_with(header: bytes, data: bytes = b"", version: bytes = b"\x01\x00", length: int | None = None) -> bytes:
    size = struct.pack("<H" if version[0] == 1 else "<I", len(header) if length is None else length)
    return b"\x93NUMPY" + version + size + header + data


ARRAYS = {
    "row 73: objects": npy_with(b"{'descr': '|O', 'fortran_order': False, 'shape': (2,), }", b"\x80\x04."),
    "row 73: 10^9 elements": npy_with(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000,), }"),
    "row 73: a shape that overflows": npy_with(
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (%d, %d), }" % (1 << 62, 4)
    ),
    "row 73: a negative shape": npy_with(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-2,), }"),
    "row 73: a header longer than the file": npy_with(b"{}", version=b"\x02\x00", length=(1 << 32) - 1),
    "row 73: code": npy_with(b"__import__('os').system('true')"),
    "row 73: a deep header": npy_with(b"(" * 20_000, version=b"\x02\x00"),
    "row 73: another version": npy_with(b"{}", version=b"\x09\x00"),
    "row 73: no array": b"\x80\x04\x95evil",
    "row 73: a zip": b"PK\x03\x04" + bytes(100),
    "row 73: cut": npy.dump(np.zeros(2, np.float32))[:-1],
    "row 73: too long": npy.dump(np.zeros(2, np.float32)) + b"x",
    "row 73: NaN": npy.dump(np.array([np.nan, 1], np.float32)),
}


@pytest.mark.parametrize("array", [value for name, value in ARRAYS.items() if "NaN" not in name],
                         ids=[name for name in ARRAYS if "NaN" not in name])  # fmt: skip
def test_row_73_an_array_that_is_none_is_refused(edge: Edge, array: bytes) -> None:
    for _, endpoint in CREATES:
        target = path_of(endpoint, model="pair", version="1")
        reply = edge.ask("POST", target, array, {"content-type": "application/x-npy"})
        problem(reply, (400, 422), ("validation_failed", "malformed_request"), endpoint.path)


URLS = ["http://example.com/", "file:///etc/passwd", "s3://bucket/key", "gopher://127.0.0.1:6379/_", "https://127.0.0.1/",
        "https://[::1]/", "https://169.254.169.254/latest/", "ftp://example.com/", "data:,x", ""]  # fmt: skip


@pytest.mark.parametrize("url", URLS)
def test_row_74_a_url_that_will_never_be_fetched_is_refused_and_is_data_to_models_that_do_not_fetch(
    edge: Edge, url: str
) -> None:
    value = json.dumps({"url": url}).encode()
    for plane, endpoint in FREE:
        if "{alias}" in endpoint.path:
            continue
        around, *_ = BODIES[endpoint.method, endpoint.path]
        target = path_of(endpoint, model="fetching", version="1")
        problem(edge.ask("POST", target, around % value, JSON, plane=plane), 422, "validation_failed", endpoint.path)
    assert edge.ask("POST", "/v1/models/echo/predictions", b'{"input": %b}' % value, JSON).status == 202


PLACES = spellings.here(8443) + spellings.confused(8443) + spellings.behind()


def test_rows_79_and_80_no_spelling_of_a_place_behind_the_door_is_taken_for_a_webhook(edge: Edge) -> None:
    for url in PLACES:
        body = json.dumps({"input": 1, "webhook": url}).encode()
        for _, endpoint in CREATES:
            reply = edge.ask("POST", path_of(endpoint), body, JSON)
            problem(reply, 422, "webhook_url_rejected", url)
            assert json.loads(reply.body)["errors"][0]["pointer"] == "/webhook"
        quoted = httpx.QueryParams({"webhook": url})
        raw = edge.ask("POST", f"/v1/models/echo/predictions?{quoted}", b"x", {"content-type": "image/png"})
        problem(raw, 422, "webhook_url_rejected", url)
        lines = {"content-type": "application/jsonl"}
        for _, endpoint in FILES:
            file = edge.ask("POST", f"{endpoint.path}?model=echo&{quoted}", b'{"input": 1}', lines)
            problem(file, 422, "webhook_url_rejected", url)


def test_row_81_there_are_no_headers_of_a_webhook_to_set(edge: Edge) -> None:
    body = b'{"input": 1, "webhook": "https://example.com/", "webhook_headers": {"Host": "evil"}}'
    for _, endpoint in CREATES:
        problem(edge.ask("POST", path_of(endpoint), body, JSON), 422, "validation_failed")


def test_rows_74_and_80_no_spelling_of_a_place_behind_the_door_is_taken_for_an_input(edge: Edge) -> None:
    for url in PLACES:
        value = json.dumps({"url": url}).encode()
        for plane, endpoint in FREE[1:4:2]:  # a create and a call
            around, *_ = BODIES[endpoint.method, endpoint.path]
            target = path_of(endpoint, model="fetching", version="1")
            problem(edge.ask("POST", target, around % value, JSON, plane=plane), 422, "validation_failed", url)


FILE_BODIES = {
    "row 78: nothing": (b"", 422, "validation_failed"),
    "row 78: empty lines": (b"\n\n\n", 422, "validation_failed"),
    "row 78: no JSON": (b"\xff\xfe\x00" * 100, 422, "validation_failed"),
    "row 78: 1,001 lines": (b'{"input": 1}\n' * 1001, 413, "payload_too_large"),
    "row 78: all lines wrong": (b'{"output": 1}\n' * 20, 422, "validation_failed"),
}


@pytest.mark.parametrize(("body", "status", "code"), FILE_BODIES.values(), ids=FILE_BODIES)
def test_a_file_that_is_none_is_refused(edge: Edge, body: bytes, status: int, code: str) -> None:
    for media in ("application/x-ndjson", "application/jsonl"):
        for packed in (False, True):
            sent = {"content-type": media} | ({"content-encoding": "gzip"} if packed else {})
            content = gzip.compress(body) if packed else body
            problem(edge.ask("POST", "/v1/batches?model=echo", content, sent), status, code)


def test_row_78_one_bad_line_of_a_hundred_fails_alone(edge: Edge) -> None:
    lines = [b'{"input": 1}'] * 99
    lines.insert(42, b'{"input": NaN}')
    reply = edge.ask("POST", "/v1/batches?model=echo", b"\n".join(lines), {"content-type": "application/jsonl"})
    assert reply.status == 202
    assert json.loads(reply.body)["request_counts"]["total"] == 100


def test_row_73_a_file_that_unpacks_to_a_bomb_is_413(edge: Edge) -> None:
    bomb = gzip.compress(b'{"input": 1}\n' + b"\n" * 50_000_000, 9)
    sent = {"content-type": "application/jsonl", "content-encoding": "gzip"}
    problem(edge.ask("POST", "/v1/batches?model=echo", bomb, sent), 413, "payload_too_large")


# States and limits (rows 82 to 86)


def test_row_82_verbs_that_come_too_often_or_too_late(edge: Edge) -> None:
    def made() -> str:
        return str(json.loads(edge.ask("POST", "/v1/models/echo/predictions", b'{"input": 1}', JSON).body)["id"])

    canceled, finished, running = made(), made(), made()
    first, second = (edge.ask("POST", f"/v1/predictions/{canceled}/cancel") for _ in range(2))
    assert (first.status, second.status, first.body) == (200, 200, second.body)
    edge.stack.worker.run(finished)
    problem(edge.ask("POST", f"/v1/predictions/{finished}/cancel"), 409, "already_terminal")
    problem(edge.ask("POST", f"/v1/predictions/{finished}/retry"), 409, "not_retryable")
    edge.stack.worker.claim(running)
    problem(edge.ask("POST", f"/v1/predictions/{running}/retry"), 409, "not_retryable")
    problem(edge.ask("DELETE", f"/v1/predictions/{running}"), 409, "not_terminal")


@pytest.mark.parametrize("wait", ["-1", "nan", "1e9", f"{10**30}x", "١", "", "true"])
def test_row_83_a_wait_that_is_malformed_is_ignored(edge: Edge, wait: str) -> None:
    sent = {"prefer": f"wait={wait}".encode().decode("latin-1")}
    for _, endpoint in CREATES:
        reply = edge.ask("POST", path_of(endpoint), b'{"input": 1}', JSON | sent)
        assert (reply.status, reply.headers.get("preference-applied")) == (202, None)


def test_row_85_over_its_rate_a_key_is_429_on_every_route(edge: Edge) -> None:
    edge.ask("GET", "/v1/models", token="rare")
    for plane, endpoint in CLOSED:
        reply = edge.ask(endpoint.method, path_of(endpoint), plane=plane, token="rare")
        if reply.status != 429:  # the bucket has filled meanwhile
            reply = edge.ask(endpoint.method, path_of(endpoint), plane=plane, token="rare")
        problem(reply, 429, "rate_limited", endpoint.path)
        assert int(reply.headers["retry-after"]) >= 1


def test_row_86_a_queue_that_is_full_is_429_on_every_route_that_submits(edge: Edge) -> None:
    edge.ask("POST", "/v1/models/narrow/predictions", b'{"input": 1}', JSON)
    for plane, endpoint in FREE:
        if "{alias}" not in endpoint.path:
            around, *_ = BODIES[endpoint.method, endpoint.path]
            target = path_of(endpoint, model="narrow", version="1")
            reply = problem(edge.ask("POST", target, around % b"1", JSON, plane=plane), 429, "queue_full")
            assert int(reply.headers["retry-after"]) >= 1


def test_row_86_a_full_queue_refuses_before_a_body_is_read(edge: Edge) -> None:
    sent = {"host": "localhost", "authorization": f"Bearer {edge.tokens['admin']}", "content-length": "90000", **JSON}

    def refused(target: str) -> bool:
        # What is known of a queue is soon old; then the body is read, since there may be room by now.
        edge.ask("POST", "/v1/models/narrow/predictions", b'{"input": 1}', JSON)
        assert edge.ask("POST", "/v1/models/narrow/predictions", b'{"input": 1}', JSON).code == "queue_full"
        with edge.connect() as connection:
            connection.sendall(head("POST", target, sent))
            reply = read_reply(connection)[0]
        if reply.status == 408:
            return False
        problem(reply, 429, "queue_full", target)
        return True

    for _, endpoint in CREATES:
        target = path_of(endpoint, model="narrow", version="1")
        wait_until(lambda target=target: refused(target), 30, f"{target} to be refused")  # type: ignore[misc]


# Texts (rows 91, 92)

TEXT = [
    "<script>alert(1)</script>",
    "=cmd|'/c calc'!A1",
    "'; DROP TABLE predictions; --",
    "%_\\",
    "\u202eevil\u200b",
    "\x1b[31m",
]


@pytest.mark.parametrize("text", TEXT)
def test_rows_91_and_92_a_text_is_a_text(either: Edge, text: str) -> None:
    body = json.dumps({"input": text, "metadata": {text: text}}).encode()
    made = either.ask("POST", "/v1/models/echo/predictions", body, JSON)
    assert json.loads(made.body)["metadata"] == {text: text}
    read = either.ask("GET", json.loads(made.body)["urls"]["get"])
    assert read.headers["content-type"] == "application/json"
    assert json.loads(read.body)["metadata"] == {text: text}
    quoted = httpx.QueryParams({"model": text, "version": text})
    problem(either.ask("GET", f"/v1/predictions?{quoted}"), 422, "validation_failed")
    for name in ("tenant", "model", "version", "code", "since", "until"):
        target = f"/v1/predictions/retry?status=failed&{httpx.QueryParams({name: text})}"
        problem(either.ask("POST", target, plane="control"), 422, "validation_failed", name)


@pytest.mark.parametrize(
    "moment", ["9999-12-31T23:59:60Z", "-1", "1e308", "2026-01-31T09:30:00", "now", "10000-01-01T00:00:00Z"]
)
def test_row_76_a_time_that_is_none_does_not_fit(either: Edge, moment: str) -> None:
    for name in ("since", "until"):
        target = f"/v1/predictions/retry?status=failed&{name}={moment}"
        problem(either.ask("POST", target, plane="control"), 422, "validation_failed")
