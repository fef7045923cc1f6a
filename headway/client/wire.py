"""Between steps and httpx: what is the same whether one blocks or awaits."""

import asyncio
import contextlib
import os
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

import httpx

from headway import __version__
from headway.client.steps import Answer, Lost, Send
from headway.errors import SettingsError
from headway.settings import secret

Http = TypeVar("Http", httpx.Client, httpx.AsyncClient)

_CONNECT_S = 10.0


class Lines(Generic[Http]):
    """Clients of httpx that nobody uses now, a connection each; the last used is the first taken.

    One client with a pool would do the same and no more than a few callers: at every request, httpx's pool looks at
    each of its connections for each request that waits. A hundred callers then wait for little else.
    """

    def __init__(self, make: Callable[[], Http]) -> None:
        self._make: Callable[[], Http] = make
        self._idle: list[Http] = []
        self.all: list[Http] = []

    @contextlib.contextmanager
    def one(self) -> Iterator[Http]:
        try:
            http = self._idle.pop()
        except IndexError:
            http = self._make()
            self.all.append(http)
        try:
            yield http
        finally:
            self._idle.append(http)


def options(base_url: str | None, api_key: str | None) -> dict[str, Any]:
    """Of an httpx client. Raises SettingsError."""
    url = base_url or os.environ.get("HEADWAY_URL") or "http://127.0.0.1:8000"
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(f"the server's URL is {url[:80]!r}, and should be like http://127.0.0.1:8000")
    key = api_key or secret(os.environ, "HEADWAY_API_KEY", "")
    if not (key.isascii() and key.isprintable()):
        raise SettingsError("the API key has characters that no key has")
    headers = {"user-agent": f"headway/{__version__}", **({"authorization": f"Bearer {key}"} if key else {})}
    # Made once, and the authorities' certificates are loaded where they are needed: it is the slow part of making a
    # client. Without them a context trusts nobody.
    verify = httpx.create_ssl_context() if parts.scheme == "https" else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return {"base_url": url, "headers": headers, "verify": verify}


def request(http: httpx.Client | httpx.AsyncClient, send: Send) -> httpx.Request:
    silence_s = send.silence_s
    timeout = httpx.Timeout(silence_s, connect=min(silence_s, _CONNECT_S))
    content: bytes | Iterator[bytes] | AsyncIterator[bytes] | None
    if send.body is None or isinstance(send.body, bytes):
        content = send.body
    else:
        blocks = send.body.blocks()
        content = blocks if isinstance(http, httpx.Client) else _in_threads(blocks)
    return http.build_request(
        send.method, send.path, params=dict(send.query), headers=dict(send.headers), content=content, timeout=timeout
    )


async def _in_threads(blocks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """A disk, or whoever makes the blocks, may take its time."""
    while block := await asyncio.to_thread(next, blocks, b""):
        yield block


def answer(response: httpx.Response, body: bytes) -> Answer:
    return Answer(response.status_code, response.headers, body)


def lost(error: httpx.TransportError, http: httpx.Client | httpx.AsyncClient | None = None) -> Lost:
    reason = str(error) or type(error).__name__
    return Lost(reason if http is None else f"no answer from {str(http.base_url).rstrip('/')}: {reason}")
