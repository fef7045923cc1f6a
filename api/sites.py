"""Which pages of which sites may call: the checks of `Host`, `Origin` and `Sec-Fetch-Site`, and CORS.

A browser sends what any page tells it to, also to 127.0.0.1. A page that had its own name point here (DNS rebinding)
is known by `Host`, all others by `Origin` or `Sec-Fetch-Site`. Clients that are no browser send neither.
"""

import functools
import ipaddress
import re
import urllib.parse
from collections.abc import Iterable, Mapping

from starlette.types import Message, Scope, Send

from api.answers import Answer, Headers
from api.problems import Problem
from headway.errors import SettingsError

_HOST = re.compile(r"(?P<name>[a-z0-9_.-]+|\[[0-9a-f:.]+\])(?P<port>:[0-9]{1,5})?", re.IGNORECASE)
_ORIGIN = re.compile(r"https?://(?P<authority>[a-z0-9_.-]+(:[0-9]{1,5})?|\[[0-9a-f:.]+\](:[0-9]{1,5})?)")

_EXPOSED = b"ETag, Link, Location, Preference-Applied, Retry-After, X-Request-Id, Idempotency-Replayed"
_SENDABLE = (
    b"Authorization, Content-Type, Idempotency-Key, If-None-Match, Last-Event-ID, Prefer, X-Request-Id, traceparent"
)
_METHODS = b"GET, HEAD, POST, PUT, DELETE"


class Sites:
    """Of one plane. `hosts` are names or addresses without a port, `*` stands for all; `origins` those of CORS."""

    def __init__(self, *, hosts: Iterable[str], origins: Iterable[str], public_url: str) -> None:
        public = urllib.parse.urlsplit(public_url)
        self._hosts = {host.lower().strip("[]") for host in hosts if host} | {public.hostname or "localhost"}
        self._cors = {checked_origin(origin).encode() for origin in origins}
        self._ours = self._cors | ({f"{public.scheme}://{public.netloc}".lower().encode()} if public.netloc else set())
        self._is_ours = functools.lru_cache(maxsize=1024)(self._judge)

    def check(self, headers: Mapping[bytes, bytes], *, version: str, server: str) -> None:
        """`version`: of HTTP. `server`: the address that the client has connected to.

        Raises Problem: malformed_request for a foreign Host, forbidden for a foreign page.
        """
        host = headers.get(b"host")
        if host is None:
            if version != "1.0":
                raise Problem("malformed_request", "A request of HTTP/1.1 has one Host header.")
        elif not self._is_ours(host, server):
            raise Problem(
                "malformed_request",
                "The Host header names none of this server's names; HEADWAY_ALLOWED_HOSTS lists further ones.",
            )
        origin = headers.get(b"origin")
        if origin is not None:
            origin = origin.lower()
            if origin in self._ours:
                return
            found = _ORIGIN.fullmatch(origin.decode("latin-1"))
            if found is None or host is None or found["authority"].encode() != host.lower():
                raise _foreign("Origin")
        if headers.get(b"sec-fetch-site") == b"cross-site":
            raise _foreign("Sec-Fetch-Site")

    def _judge(self, host: bytes, server: str) -> bool:
        """No name can be made to look like `server`."""
        found = _HOST.fullmatch(host.decode("latin-1"))
        if found is None:
            return False
        name = found["name"].lower().strip("[]").removesuffix(".")
        return name in self._hosts or "*" in self._hosts or name == "localhost" or _is_address(name, server)

    # CORS

    def preflight(self, scope: Scope, headers: Mapping[bytes, bytes]) -> Answer | None:
        """The answer to a browser that asks before it calls, which it does without a key. None: it does not ask."""
        if (
            scope["method"] != "OPTIONS"
            or b"access-control-request-method" not in headers
            or headers.get(b"origin", b"").lower() not in self._cors
        ):
            return None
        allowed: Headers = (
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-allow-headers", _SENDABLE),
            (b"access-control-max-age", b"600"),
            (b"cache-control", b"no-store"),
        )
        return Answer(204, b"", allowed)

    def shared(self, headers: Mapping[bytes, bytes]) -> Headers:
        """The headers that let the page of an allowed origin read the answer."""
        if not self._cors:
            return ()
        origin = headers.get(b"origin", b"").lower()
        if origin not in self._cors:
            return ((b"vary", b"Origin"),)
        return (
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", _EXPOSED),
            (b"vary", b"Origin"),
        )

    def sharing(self, headers: Mapping[bytes, bytes], send: Send) -> Send:
        """`send`, with them."""
        shared = self.shared(headers)
        if not shared:
            return send

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *shared]}
            await send(message)

        return sending


def checked_origin(origin: str) -> str:
    """In lower case, without what browsers leave out. Raises SettingsError."""
    found = _ORIGIN.fullmatch(origin.lower().rstrip("/"))
    if found is None:
        raise SettingsError(f"HEADWAY_CORS_ORIGINS: {origin[:80]!r} should be like https://app.example.com")
    return found[0]


def _is_address(name: str, server: str) -> bool:
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or name == server


def _foreign(header: str) -> Problem:
    return Problem(
        "forbidden", f"`{header}` says that a page of another site calls; HEADWAY_CORS_ORIGINS lists those that may."
    )
