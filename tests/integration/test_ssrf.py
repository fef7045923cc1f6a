"""Nobody can make Headway call where it should not: neither for webhooks nor for inputs that are fetched, neither at
once nor by a redirect or a name that changes its mind.

A honeypot listens on every address of this machine: no connection may ever reach it. Of other places every attempt to
connect is noted, and none is let out.
"""

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from headway.egress import INPUT, Egress, UrlRefused, networks
from headway.manifest import Fetch
from headway.testing import new_prediction, wait_until
from headway.webhooks import Events, WebhookStatus
from storage.deliveries import Deliveries, Secrets
from storage.engine import Database
from storage.predictions import Predictions
from tests import spellings
from workers.fetching import Fetcher, FetchFailed
from workers.posting import Poster, PostFailed, target
from workers.webhooks import Deliverer

#: The one address that may be called, and where redirects come from. It is not where the honeypot is asked for.
GOOD = "127.9.9.9"
ONLY_GOOD = networks(f"{GOOD}/32")
REDIRECTS = (301, 302, 303, 307, 308)
LIMITS = Fetch(max_bytes=10_000, timeout_s=5)


class Honeypot:
    """Listens on all addresses of some ports, IPv4 and IPv6."""

    def __init__(self) -> None:
        self.caught: list[Any] = []
        self._listening = [
            socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) for _ in range(3)
        ]
        self.ports = [listening.getsockname()[1] for listening in self._listening]
        self._threads = [threading.Thread(target=self._accept, args=(each,)) for each in self._listening]
        for thread in self._threads:
            thread.start()

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                connection, address = listening.accept()
            except OSError:
                return
            self.caught.append(address)
            connection.close()

    def close(self) -> None:
        for listening in self._listening:
            with contextlib.suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)
            listening.close()
        for thread in self._threads:
            thread.join()


@pytest.fixture(scope="module")
def honeypot() -> Iterator[Honeypot]:
    """It works, and in the end it has caught nobody."""
    made = Honeypot()
    for host in ("127.0.0.1", "127.0.0.2", "::1", "::ffff:127.0.0.1"):
        socket.create_connection((host, made.ports[0])).close()
    wait_until(lambda: len(made.caught) == 4, 5, "the honeypot")
    made.caught.clear()
    yield made
    made.close()
    assert made.caught == []


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Addresses besides the good one that somebody has tried to connect to; none of it leaves this process."""
    tried: list[Any] = []
    real = socket.socket.connect

    def connect(self: socket.socket, address: Any) -> None:
        if self.type == socket.SOCK_STREAM and self.family != socket.AF_UNIX and address[0] != GOOD:
            tried.append(address)
            raise ConnectionRefusedError("a test has forbidden it")
        real(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)
    return tried


class Redirecting:
    """A web server at the good address; /N sends everybody to the place of this number, with a status of its own."""

    def __init__(self) -> None:
        self.locations, self.status, self.asked = ["/"], 0, 0
        outside = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", 0)))
                outside.asked += 1
                number = int(self.path[1:] or 0)
                location = outside.locations[number].encode().decode("latin-1")
                self.send_response(outside.status or REDIRECTS[number % len(REDIRECTS)])
                self.send_header("location", location)
                self.send_header("refresh", f"0; url={location}")
                self.send_header("content-length", "0")
                self.end_headers()

            do_GET = do_POST  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer((GOOD, 0), Handler)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def redirecting() -> Iterator[Redirecting]:
    made = Redirecting()
    yield made
    made.close()


#: Reading the authorities takes longer than all else here.
TLS = ssl.create_default_context()


def posting(urls: list[str], allow: Any = ()) -> dict[str, str]:
    """How a POST to each ended, by the client of webhooks, without any check before it connects."""

    async def post(poster: Poster, url: str) -> str:
        try:
            return str((await asyncio.wait_for(poster.post(target(url), [], b"{}"), 5)).status)
        except (UrlRefused, PostFailed, ValueError, UnicodeError) as fault:
            return type(fault).__name__

    async def run() -> dict[str, str]:
        with ThreadPoolExecutor(2) as names:
            poster = Poster(Egress(allow), names, TLS, most_idle=2)
            try:
                return {url: await post(poster, url) for url in urls}
            finally:
                poster.close()

    return asyncio.run(run())


def fetching(urls: list[str], allow: Any = ()) -> dict[str, str]:
    fetcher = Fetcher(Egress(allow, INPUT), TLS)

    def fetch(url: str) -> str:
        try:
            return fetcher.fetch(url, LIMITS)[1]
        except FetchFailed as failed:
            return str(failed)

    return {url: fetch(url) for url in urls}


def everywhere(honeypot: Honeypot) -> list[str]:
    port = honeypot.ports[0]
    return spellings.here(port) + spellings.confused(port) + spellings.behind()


def test_there_are_more_than_120_spellings(honeypot: Honeypot) -> None:
    assert len(set(spellings.HERE)) + len(set(spellings.BEHIND)) + len(set(spellings.CONFUSED)) > 180
    assert len(set(everywhere(honeypot))) > 300


def test_none_is_accepted_when_it_is_created(honeypot: Honeypot, attempts: list[Any]) -> None:
    for url in everywhere(honeypot):
        for egress in (Egress(), Egress(ONLY_GOOD), Egress((), INPUT)):
            with pytest.raises(UrlRefused):
                egress.checked_url(url)
    assert attempts == []


def test_none_is_called_though_it_was_accepted_before(
    sqlite_url: str, honeypot: Honeypot, new_deliverer: Callable[[Database], None]
) -> None:
    """As rows of another version of this guard, or a hand in the database, could have it."""
    database = Database.open(sqlite_url)
    try:
        predictions = Predictions(database)
        rows = [
            new_prediction(webhook=url, webhook_events=Events.COMPLETED)
            for url in everywhere(honeypot)
            if "\0" not in url
        ]
        predictions.insert(rows)
        predictions.cancel_queued([row.id for row in rows], "default")
        new_deliverer(database)
        wait_until(lambda: given_up(predictions, [row.id for row in rows]), 60, "all deliveries to be given up")
        log = [each for row in rows for one in Deliveries(database).of(row.id, "default") for each in one.log]
        assert len(log) == len(rows)
        assert {each.status_code for each in log} == {None}
    finally:
        database.close()
    assert honeypot.caught == []


def given_up(predictions: Predictions, ids: list[str]) -> bool:
    return all(row.webhook_status is WebhookStatus.FAILED for row in predictions.read(ids).values())


@pytest.fixture
def new_deliverer() -> Iterator[Callable[[Database], None]]:
    with ExitStack() as started:

        def start(database: Database) -> None:
            deliverer = Deliverer(Deliveries(database), Secrets(database), Egress(), (), timeout_s=3.0)
            stopping = threading.Event()
            thread = threading.Thread(target=deliverer.run, args=(stopping,))
            thread.start()
            started.callback(thread.join)
            started.callback(stopping.set)

        yield start


@pytest.mark.parametrize("call", [posting, fetching])
def test_none_is_connected_to_even_where_nobody_has_checked_the_url(
    honeypot: Honeypot, attempts: list[Any], call: Callable[[list[str]], dict[str, str]]
) -> None:
    answers = call([url for url in everywhere(honeypot) if call is fetching or plain(url)])
    assert len(answers) > 200
    assert not {answer for answer in answers.values() if answer.isdigit() or "/" in answer.partition(" ")[0]}
    assert attempts == []
    assert honeypot.caught == []


def plain(url: str) -> bool:
    """Whether it can be taken apart at all."""
    try:
        target(url)
    except ValueError:
        return False
    return True


def test_no_redirect_is_followed_wherever_it_leads(
    honeypot: Honeypot, attempts: list[Any], redirecting: Redirecting
) -> None:
    redirecting.locations = [url for url in everywhere(honeypot) if url.isprintable()]
    urls = [f"http://{GOOD}:{redirecting.port}/{number}" for number in range(len(redirecting.locations))]
    posted, fetched = posting(urls, ONLY_GOOD), fetching(urls, ONLY_GOOD)
    for number, url in enumerate(urls):
        assert posted[url] == str(REDIRECTS[number % len(REDIRECTS)])
        assert "redirects are not followed" in fetched[url]
    assert redirecting.asked == 2 * len(urls)
    assert attempts == []
    assert honeypot.caught == []


Resolver = Callable[[str], list[str]]


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Callable[[Resolver], list[str]]:
    """Names under `.example` are what a toy resolver says; the names that it was asked for."""
    real = socket.getaddrinfo
    asked: list[str] = []

    def use(resolver: Resolver) -> list[str]:
        def getaddrinfo(host: Any, port: Any, *more: Any, **named: Any) -> Any:
            if not str(host).rstrip(".").endswith(".example") or named.get("flags", 0) & socket.AI_NUMERICHOST:
                return real(host, port, *more, **named)
            asked.append(host)
            found = []
            for address in resolver(host):
                family = socket.AF_INET6 if ":" in address else socket.AF_INET
                found += real(address, port, family, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST)
            return found

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        return asked

    return use


def addresses() -> list[str]:
    """What every spelling stands for, once each."""
    found: dict[str, None] = {}
    for host in (*spellings.HERE, *spellings.BEHIND):
        with contextlib.suppress(OSError, UnicodeError):
            for answer in socket.getaddrinfo(
                host.strip("[]"), None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
            ):
                found[str(answer[4][0])] = None
    return list(found)


@pytest.mark.parametrize("call", [posting, fetching])
def test_a_name_may_change_its_mind_and_what_was_checked_is_what_is_called(
    honeypot: Honeypot,
    attempts: list[Any],
    redirecting: Redirecting,
    resolve: Callable[[Resolver], list[str]],
    call: Callable[..., dict[str, str]],
) -> None:
    """Good for who asks first, bad for who asks again; and the other way round; and both at once."""
    bad = addresses()
    assert len(bad) > 60
    redirecting.status = 204 if call is posting else 200
    turn = [0]

    def good_once(_: str) -> list[str]:
        turn[0] += 1
        return [GOOD] if turn[0] % 2 else [bad[turn[0] // 2 % len(bad)]]

    asked = resolve(good_once)
    # A name of its own each time: a connection that is kept would not ask again.
    urls = [
        f"http://name{number}.example:{honeypot.ports[0] if number % 2 else redirecting.port}/"
        for number in range(2 * len(bad))
    ]
    answers = call(urls, ONLY_GOOD)
    for number, url in enumerate(urls):
        reached = answers[url] in ("204", "application/octet-stream")
        assert reached == (number % 2 == 0), (url, answers[url])
    assert len(asked) == len(urls)  # once for each: nobody asks again between the check and the connection

    mixed = iter([[GOOD, address] for address in bad] + [[address, GOOD] for address in bad])
    resolve(lambda _: next(mixed))
    before = redirecting.asked
    urls = [f"http://mixed{number}.example:{honeypot.ports[number % 3]}/" for number in range(2 * len(bad))]
    for url, answer in call(urls, ONLY_GOOD).items():
        assert "UrlRefused" in answer or "not a public address" in answer, (url, answer)
    assert redirecting.asked == before
    assert attempts == []
    assert honeypot.caught == []


def test_a_name_that_is_good_for_a_moment_is_judged_at_every_attempt(
    honeypot: Honeypot, attempts: list[Any], redirecting: Redirecting, resolve: Callable[[Resolver], list[str]]
) -> None:
    """Of one client: a connection that is kept may be used again, a new one is judged anew."""
    redirecting.status = 204
    now = [GOOD]
    resolve(lambda _: list(now))
    url = f"http://name.example:{redirecting.port}/"

    async def run() -> list[str]:
        with ThreadPoolExecutor(1) as names:
            poster = Poster(Egress(ONLY_GOOD), names, TLS, most_idle=2)
            answers = []
            for address in [GOOD, "127.0.0.1", "::1", "169.254.169.254", GOOD]:
                now[:] = [address]
                poster.close()  # as after a while of silence
                try:
                    answers.append(str((await poster.post(target(url), [], b"{}")).status))
                except UrlRefused:
                    answers.append("refused")
            poster.close()
            return answers

    assert asyncio.run(run()) == ["204", "refused", "refused", "refused", "204"]
    assert attempts == []
    assert honeypot.caught == []
