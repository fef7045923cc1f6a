"""What a client's URL may lead a worker to: real servers that mean harm, and names that lie."""

import contextlib
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trustme

from headway.egress import INPUT, Egress, networks
from headway.manifest import Fetch
from workers.fetching import Fetcher, FetchFailed

LOCAL = networks("127.0.0.1/32")
LIMITS = Fetch(max_bytes=10_000, timeout_s=10.0)

Talk = Callable[[socket.socket], None]


class Server:
    """Says what the test wants, to one connection after the other."""

    def __init__(self, talk: Talk, tls: ssl.SSLContext | None = None) -> None:
        self._talk = talk
        self._tls = tls
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        self.requests: list[bytes] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), connection:
                stream = connection if self._tls is None else self._tls.wrap_socket(connection, server_side=True)
                with stream:
                    self.requests.append(stream.recv(65536))
                    self._talk(stream)

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(20)


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    with contextlib.ExitStack() as opened:

        def make(talk: Talk, tls: ssl.SSLContext | None = None) -> Server:
            server = Server(talk, tls)
            opened.callback(server.close)
            return server

        yield make


@pytest.fixture
def fetcher() -> Fetcher:
    return Fetcher(Egress(LOCAL, INPUT))


def answering(head: str, body: bytes = b"") -> Talk:
    return lambda stream: stream.sendall(f"HTTP/1.1 {head}\r\n\r\n".encode() + body)


def endless(stream: socket.socket) -> None:
    stream.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        stream.sendall(b"400\r\n" + b"x" * 1024 + b"\r\n")


def dripping(stream: socket.socket) -> None:
    stream.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 9000\r\n\r\n")
    stop = threading.Event()
    while not stop.wait(0.05):
        stream.sendall(b"x")


def silent(stream: socket.socket) -> None:
    stream.recv(1)  # until the other side has gone


def test_a_plain_answer_is_its_bytes_and_its_type(serve: Callable[..., Server], fetcher: Fetcher) -> None:
    server = serve(answering("200 OK\r\ncontent-type: Image/PNG; x=Y\r\ncontent-length: 3", b"abc"))
    assert fetcher.fetch(f"{server.url}a?b=c#", LIMITS) == (b"abc", "image/png; x=Y")
    assert server.requests[0].startswith(b"GET /a?b=c HTTP/1.1\r\n")
    assert f"host: 127.0.0.1:{server.port}".encode() in server.requests[0].lower()
    assert b"accept-encoding: identity" in server.requests[0].lower()


def test_an_answer_without_a_type_is_bytes(serve: Callable[..., Server], fetcher: Fetcher) -> None:
    server = serve(answering("200 OK\r\ncontent-length: 0"))
    assert fetcher.fetch(server.url, LIMITS) == (b"", "application/octet-stream")


BAD: dict[str, tuple[Talk, str]] = {
    "a redirect": (answering("302 Found\r\nlocation: http://127.0.0.1:22/\r\ncontent-length: 0"), "redirects"),
    "not found": (answering("404 Not Found\r\ncontent-length: 0"), "answers 404"),
    "a part": (answering("206 Partial Content\r\ncontent-length: 1", b"x"), "answers 206"),
    "large by its word": (answering("200 OK\r\ncontent-length: 99999999999"), "more than 10000 bytes"),
    "large": (answering("200 OK\r\ncontent-length: 10001", b"x" * 10_001), "more than 10000 bytes"),
    "large, of no length": (answering("200 OK\r\nconnection: close", b"x" * 20_000), "more than 10000 bytes"),
    "packed": (answering("200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 29", b"x" * 29), "content encoding"),
    "cut": (answering("200 OK\r\ncontent-length: 10", b"short"), "cannot be fetched"),
    "another protocol": (lambda stream: stream.sendall(b"SSH-2.0-OpenSSH_9.9\r\n"), "cannot be fetched"),
    "nothing": (lambda stream: stream.close(), "cannot be fetched"),
    "endless": (endless, "more than 10000 bytes"),
}


@pytest.mark.parametrize(("talk", "words"), BAD.values(), ids=BAD.keys())
def test_what_is_no_plain_answer_of_a_fair_size_fails(
    serve: Callable[..., Server], fetcher: Fetcher, talk: Talk, words: str
) -> None:
    with pytest.raises(FetchFailed, match=words):
        fetcher.fetch(serve(talk).url, LIMITS)


@pytest.mark.parametrize("talk", [dripping, silent])
def test_the_time_is_one_for_all_of_it_however_alive_the_other_side_is(
    serve: Callable[..., Server], fetcher: Fetcher, talk: Talk
) -> None:
    with pytest.raises(FetchFailed, match=r"within 0\.5 s"):
        fetcher.fetch(serve(talk).url, Fetch(max_bytes=10_000, timeout_s=0.5))


@pytest.mark.parametrize(
    "url",
    [
        "https://169.254.169.254/latest/meta-data/",
        "http://127.0.0.2/",
        "https://[::ffff:10.0.0.1]/",
        "https://0x7f000002/",
        "https://127.0.0.1:22/",
        "https://127.0.0.1:6379/",
        "file:///etc/passwd",
        "https://user:word@127.0.0.1/",
    ],
)
def test_what_is_not_public_is_never_connected_to(fetcher: Fetcher, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("it was connected to"))
    with pytest.raises(FetchFailed, match=r"Inputs are not fetched|The input"):
        fetcher.fetch(url, LIMITS)


def test_a_name_is_judged_by_all_of_what_it_resolves_to(
    serve: Callable[..., Server], fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = ["127.0.0.1", "10.0.0.1"]
    real = socket.getaddrinfo

    def resolve(host: str, *arguments: Any, **named: Any) -> Any:
        if host != "mixed.example" or named.get("flags", 0) & socket.AI_NUMERICHOST:
            return real(host, *arguments, **named)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in answers]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    server = serve(answering("200 OK\r\ncontent-length: 2", b"ok"))
    url = f"http://mixed.example:{server.port}/"
    with pytest.raises(FetchFailed, match=r"10\.0\.0\.1: it is not a public address.*HEADWAY_FETCH_ALLOW"):
        fetcher.fetch(url, LIMITS)
    assert server.requests == []
    del answers[1]
    assert fetcher.fetch(url, LIMITS)[0] == b"ok"
    assert f"host: mixed.example:{server.port}".encode() in server.requests[0].lower()


def test_tls_is_of_the_name_and_not_of_the_address(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    ours, theirs = ssl.create_default_context(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.configure_trust(ours)
    authority.issue_cert("good.example").configure_cert(theirs)
    server = serve(answering("200 OK\r\ncontent-length: 2", b"ok"), theirs)
    real = socket.getaddrinfo

    def resolve(host: str, *arguments: Any, **named: Any) -> Any:
        named_by_us = host.endswith(".example") and not named.get("flags", 0) & socket.AI_NUMERICHOST
        return real("127.0.0.1" if named_by_us else host, *arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    fetcher = Fetcher(Egress(LOCAL, INPUT), ours)
    assert fetcher.fetch(f"https://good.example:{server.port}/", LIMITS)[0] == b"ok"
    with pytest.raises(FetchFailed, match="certificate is not valid"):
        fetcher.fetch(f"https://other.example:{server.port}/", LIMITS)


def test_public_addresses_need_https() -> None:
    assert ipaddress.ip_address("93.184.215.14").is_global
    with pytest.raises(FetchFailed, match="https only"):
        Fetcher(Egress((), INPUT)).fetch("http://93.184.215.14/", LIMITS)
