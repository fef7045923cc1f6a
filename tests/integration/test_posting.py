"""The client that posts webhooks, against servers that answer whatever a socket can carry."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from headway.egress import Egress, networks
from workers.posting import Answered, Poster, PostFailed, target

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def request(reader: asyncio.StreamReader) -> bytes:
    """The next one's head; its body is read too."""
    head = await reader.readuntil(b"\r\n\r\n")
    size = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    await reader.readexactly(size)
    return head


class _TwoAddresses(Egress):
    """Nobody listens on the first."""

    def resolve(self, host: str, port: int, *, secure: bool) -> list[str]:
        return ["127.0.0.2", *super().resolve(host, port, secure=secure)]


def posting(serve: Serve, test: Callable[[Poster, str], Awaitable[None]], egress: type[Egress] = Egress) -> None:
    """Runs a test with a client and the URL of a server."""

    async def quietly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has hung up
        finally:
            writer.close()

    async def run() -> None:
        server = await asyncio.start_server(quietly, "127.0.0.1", 0)
        with ThreadPoolExecutor(1) as names:
            poster = Poster(egress(networks("127.0.0.0/8")), names, ssl.create_default_context(), most_idle=2)
            try:
                await asyncio.wait_for(
                    test(poster, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook?a=b"), 20
                )
            finally:
                poster.close()
                server.close()
                await asyncio.sleep(0.01)  # the servers' ends close

    asyncio.run(run())


def answering(*answers: bytes, close: bool = False) -> Serve:
    """On each connection, one answer after another."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await request(reader)
            writer.write(answer)
            await writer.drain()
        if not close:
            await reader.read()

    return serve


async def post(poster: Poster, url: str, headers: Sequence[tuple[str, str]] = ()) -> Answered:
    return await poster.post(target(url), headers, b"{}")


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (OK, 200),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", 200),
        (b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", 500),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, 200),
        (b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", 302),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 70000\r\n\r\n" + b"x" * 66_000, 200),
    ],
)
def test_an_answer_is_understood_as_it_comes(answer: bytes, status: int) -> None:
    async def test(poster: Poster, url: str) -> None:
        assert await post(poster, url) == Answered(status, "")

    posting(answering(answer), test)


def test_a_body_may_end_with_its_connection() -> None:
    async def test(poster: Poster, url: str) -> None:
        for _ in range(2):
            assert await post(poster, url) == Answered(200, "7")

    posting(answering(b"HTTP/1.0 200 OK\r\nRetry-After: 7\r\n\r\nok", close=True), test)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "before an answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "middle of its answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", "middle of its answer"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "no HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000, "too long"),
    ],
)
def test_what_is_no_answer_fails_and_says_why(answer: bytes, why: str) -> None:
    async def test(poster: Poster, url: str) -> None:
        with pytest.raises(PostFailed, match=why):
            await post(poster, url)

    posting(answering(answer, close=True), test)


def test_a_connection_is_kept_for_the_next_request() -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await answering(*[OK] * 9)(reader, writer)

    async def test(poster: Poster, url: str) -> None:
        for _ in range(3):
            assert (await post(poster, url)).status == 200
        await asyncio.gather(*(post(poster, url) for _ in range(3)))

    posting(serve, test)
    assert connections == 3


def test_a_connection_that_was_closed_while_it_was_idle_costs_no_attempt() -> None:
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await request(reader))
        writer.write(OK)
        if len(heads) == 1:  # the second request comes while this end is closing
            heads.append(await request(reader))

    async def test(poster: Poster, url: str) -> None:
        assert (await post(poster, url)).status == 200
        assert (await post(poster, url)).status == 200

    posting(serve, test)
    assert len(heads) == 3
    assert all(head.startswith(b"POST /hook?a=b HTTP/1.1\r\nHost: 127.0.0.1:") for head in heads)


def test_what_comes_unasked_is_never_taken_for_an_answer() -> None:
    async def test(poster: Poster, url: str) -> None:
        assert (await post(poster, url)).status == 200
        assert (await post(poster, url)).status == 200

    posting(answering(OK + b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", OK), test)


def test_the_next_address_is_tried_where_one_does_not_answer() -> None:
    async def test(poster: Poster, url: str) -> None:
        assert (await post(poster, url)).status == 200

    posting(answering(OK), test, _TwoAddresses)


def test_a_header_with_a_line_break_is_never_sent() -> None:
    async def test(poster: Poster, url: str) -> None:
        with pytest.raises(ValueError, match="line break"):
            await post(poster, url, [("webhook-id", "a\r\nX: y")])

    posting(answering(OK), test)
