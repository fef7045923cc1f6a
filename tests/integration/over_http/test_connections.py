"""More connections than the API takes, and one tenant that would have them all."""

import contextlib
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from headway.keys import new_token
from headway.testing import wait_until
from storage.keys import Keys
from tests.integration.over_http.test_hostile_input import Edge, head, problem, read_reply

MOST = 40


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    """At most so many connections, and half of them for a tenant."""
    from tests.integration.over_http.conftest import Stack

    tokens = {"bootstrap": new_token(), "other": new_token()}
    stack = Stack(
        f"sqlite:///{tmp_path_factory.mktemp('connections')}/headway.db",
        HEADWAY_BOOTSTRAP_KEY=tokens["bootstrap"],
        HEADWAY_MAX_CONNECTIONS=str(MOST),
    )
    try:
        Keys(stack.database).add(tokens["other"], tenant_id="other", scopes=("admin",), name="")
        tokens["admin"] = tokens["bootstrap"]
        edge = Edge(stack, tokens)
        wait_until(lambda: edge.ask("GET", "/v1/models", token="other").status == 200, 10)
        stack.api.client.close()
        yield edge
        edge.close()
    finally:
        stack.close()


@pytest.fixture
def opened(edge: Edge) -> Iterator[ExitStack]:
    """Connections that are closed after the test, whose places are free again before the next: nobody waits on."""
    with ExitStack() as opened:
        yield opened
    edge.close()
    wait_until(lambda: without_place(edge) == 0, 10, "those who have left to be forgotten")


def request(edge: Edge, method: str, target: str, token: str = "admin", **more: str) -> bytes:
    key = {"host": "localhost", "authorization": f"Bearer {edge.tokens[token]}", "content-length": "0"}
    return head(method, target, key | more)


def waiting(edge: Edge, opened: ExitStack, count: int, token: str = "admin") -> list[socket.socket]:
    """Connections on which somebody waits for a prediction that nobody makes."""
    body = b'{"input": 1}'
    sent = {"prefer": "wait=30", "content-type": "application/json", "content-length": str(len(body))}
    asking = request(edge, "POST", "/v1/models/echo/predictions", token, **sent) + body
    connections = [opened.enter_context(edge.connect()) for _ in range(count)]
    for connection in connections:
        connection.sendall(asking)
    return connections


def without_place(edge: Edge) -> int:
    """Tenants that have no place, of the two."""
    return [edge.ask("GET", "/v1/models", token=token).status for token in ("admin", "other")].count(429)


def refused(edge: Edge, reason: str) -> float:
    text = edge.metrics()
    found = re.search(rf'^headway_refused_total\{{reason="{reason}"\}} (\S+)$', text, re.MULTILINE)
    return 0.0 if found is None else float(found[1])


def closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
    finally:
        connection.setblocking(True)


@pytest.mark.parametrize("beginning", [b"", b"GET /health HTTP/1.1\r\nhost: "], ids=["silent", "half a head"])
def test_row_54_idle_connections_make_room_for_who_asks(edge: Edge, opened: ExitStack, beginning: bytes) -> None:
    idle = []
    for _ in range(10 * MOST):
        connection = opened.enter_context(edge.connect())
        with contextlib.suppress(ConnectionError):  # it may have gone already
            connection.sendall(beginning)
        idle.append(connection)
    for _ in range(5):
        with edge.connect() as good:
            good.sendall(request(edge, "GET", "/v1/models"))
            assert read_reply(good)[0].status == 200
    assert sum(map(closed, idle)) >= 9 * MOST
    assert edge.stack.api.process.poll() is None


def test_row_54_with_all_at_work_who_comes_is_told_to_come_again(edge: Edge, opened: ExitStack) -> None:
    before = refused(edge, "too_many_connections")
    waiting(edge, opened, MOST // 2)
    waiting(edge, opened, MOST // 2, "other")

    def told() -> bool:
        with edge.connect() as late:
            late.sendall(request(edge, "GET", "/v1/models"))
            try:
                reply = read_reply(late)[0]
            except ConnectionError:
                return False
            if reply.status == 503:
                problem(reply, 503, "unavailable")
                assert int(reply.headers["retry-after"]) >= 1
                assert reply.headers["connection"] == "close"
            return reply.status == 503

    wait_until(told, 10, "a refusal")
    assert edge.ask("GET", "/v1/models", plane="control").status == 200  # operators have their own
    assert refused(edge, "too_many_connections") > before


def test_row_84_one_tenant_has_half_of_the_places_and_the_others_are_served(edge: Edge, opened: ExitStack) -> None:
    waiting(edge, opened, MOST // 2)

    def full() -> bool:
        reply = edge.ask("GET", "/v1/models")
        if reply.status == 429:
            problem(reply, 429, "rate_limited")
            assert int(reply.headers["retry-after"]) >= 1
        else:
            waiting(edge, opened, 1)
        return reply.status == 429

    wait_until(full, 10, "the tenant's share to be taken")
    for method, target in (("GET", "/v1/predictions"), ("POST", "/v1/models/echo:predict"), ("DELETE", "/nothing")):
        problem(edge.ask(method, target), 429, "rate_limited", target)
        assert edge.ask(method, target, token="other").status != 429
    opened.close()
    wait_until(lambda: edge.ask("GET", "/v1/models").status == 200, 10, "places to be free again")
