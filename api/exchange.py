"""One request as an endpoint sees it, and the reading of its headers and query.

The connections (`api.direct`) and the FastAPI routes both make a `Call`, await the same endpoint and send its `Answer`.
What clients send again and again (`Prefer`, `If-None-Match`) is parsed once.
"""

import functools
import re
import urllib.parse
from collections.abc import AsyncIterator, Mapping, Sequence

from starlette.types import Receive, Scope

from api.answers import Headers
from api.problems import Problem
from headway.clock import new_id

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


#: Where the scope carries the connection, whose `expect_stream` lets a body take its time.
CONNECTION = "headway.connection"


class Disconnected(Exception):  # noqa: N818  (a fact about the client, not a failure of ours)
    """The client hung up before its body was complete; nobody is left to answer."""


class Call:
    """What an endpoint may know of a request."""

    __slots__ = ("_connection", "headers", "key", "params", "path", "query", "receive", "request_id", "tenant")

    @property
    def takes_pieces(self) -> bool:
        """Whether its answer may be `Streamed` where most are not."""
        return False

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        params: Mapping[str, str],
        request_id: str,
        *,
        headers: Mapping[bytes, bytes],
        tenant: str,
        key: str | None = None,
    ) -> None:
        self._connection = scope.get(CONNECTION)
        self.headers = headers
        self.key = key  # the first characters of the caller's
        self.params = params
        self.path: str = scope["path"]
        self.query: bytes = scope["query_string"]
        self.receive = receive
        self.request_id = request_id
        self.tenant = tenant

    def part(self, params: Mapping[str, str], receive: Receive) -> "Call":
        """One of several questions that it comes to, of the same caller; `receive` says when nobody waits for it."""
        scope = {"path": self.path, "query_string": self.query}
        return Call(scope, receive, params, self.request_id, headers=self.headers, tenant=self.tenant, key=self.key)

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes, of any length and at its own pace. Raises Disconnected where it ends too early."""
        if self._connection is not None:
            self._connection.expect_stream()
        more = True
        while more:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            more = message.get("more_body", False)
            if piece := message.get("body", b""):
                yield piece

    async def body(self, limit: int) -> bytes:
        """The whole body. One over `limit` bytes is refused before it is read, where Content-Length tells."""
        length = self.headers.get(b"content-length")
        if length is not None and length.isdigit() and int(length[:20]) > limit:
            raise too_large(limit)
        message = await self.receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        first: bytes = message.get("body", b"")
        if not message.get("more_body"):
            if len(first) > limit:
                raise too_large(limit)
            return first
        parts, size = [first], len(first)
        while message.get("more_body"):
            if size > limit:
                raise too_large(limit)
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            parts.append(message.get("body", b""))
            size += len(parts[-1])
        if size > limit:
            raise too_large(limit)
        return b"".join(parts)


def too_large(limit: int) -> Problem:
    """Of a body."""
    # The connection stays open and what still comes of the body is thrown away as it comes: closing it resets a client
    # who is still sending, and many clients then never read this answer.
    return Problem("payload_too_large", f"The body is larger than {limit} bytes.")


def single_headers(raw: Headers) -> dict[bytes, bytes]:
    """Names (lower case) to values; what came several times is joined by commas, as RFC 9110 §5.3 reads it."""
    headers = dict(raw)
    if len(headers) != len(raw):
        headers = {}
        for name, value in raw:
            headers[name] = headers[name] + b", " + value if name in headers else value
    return headers


def request_id(raw: Headers) -> str:
    """The caller's X-Request-Id where it is harmless, else a new one."""
    for name, value in raw:
        if name == b"x-request-id":
            return value.decode() if _REQUEST_ID.fullmatch(value) else new_id()
    return new_id()


#: `Prefer: wait` beyond this is taken as this, seconds.
LONGEST_WAIT_S = 60


@functools.lru_cache(maxsize=1024)
def preferred_wait(prefer: bytes) -> int | None:
    """Seconds of the first `wait` preference, 60 at most; None where there is none, or it is malformed (RFC 7240)."""
    for preference in prefer.split(b","):
        name, _, value = preference.partition(b";")[0].partition(b"=")
        if name.strip().lower() == b"wait":
            digits = value.strip().strip(b'"')
            return min(int(digits[:9]), LONGEST_WAIT_S) if digits.isdigit() else None
    return None


@functools.lru_cache(maxsize=64)
def preference_applied(wait: int | None) -> Headers:
    """What tells the caller which wait was applied; `Vary` goes with every answer that could have waited."""
    if wait is None:
        return ((b"vary", b"Prefer"),)
    return (b"vary", b"Prefer"), (b"preference-applied", b"wait=%d" % wait)


_ETAG = re.compile(rb'(?:W/)?"([\x21\x23-\x7e\x80-\xff]*)"')


def etag_matches(if_none_match: bytes, tag: bytes) -> bool:
    """Weak comparison of RFC 9110 §8.8.3.2; `tag` is the opaque part, without quotes."""
    return if_none_match.strip() == b"*" or tag in _ETAG.findall(if_none_match)


def query_parameters(query: bytes, allowed: Mapping[str, Sequence[str] | None]) -> dict[str, str]:
    """Name to value; each name at most once, each value one of those allowed (None: any)."""
    if not query:
        return {}
    found: dict[str, str] = {}
    for name, value in urllib.parse.parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if name not in allowed:
            detail = f"There is no parameter `{name[:80]}` here."
        elif name in found:
            detail = f"`{name}` was given more than once."
        elif (values := allowed[name]) is not None and value not in values:
            detail = f"`{name}` may be {' or '.join(map(repr, values))}."
        else:
            found[name] = value
            continue
        raise Problem.invalid(detail, parameter=name[:80])
    return found
