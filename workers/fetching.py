"""GETs an input for its prediction. The server is whoever a client has named, so nothing it does is trusted.

The connection goes to the very address that was checked, while the host's name stays in Host and in TLS's SNI. No
redirect is followed, nothing is decompressed, no proxy of the environment is asked, and the time and the bytes of it
all are bounded, whatever Content-Length says.
"""

import ssl
import time
from collections.abc import Iterable
from typing import Any

import httpcore

import headway
import headway.tls
from headway.egress import Egress, UrlRefused
from headway.errors import HeadwayError
from headway.manifest import Fetch

#: For each address of a host: one that swallows everything must not keep the next from being tried.
_CONNECT_S = 4.0
#: The media type of an answer that does not say.
_UNKNOWN = "application/octet-stream"
_LONGEST_TYPE = 200


class FetchFailed(HeadwayError):  # noqa: N818  (the field says "failed")
    """The message says why, for whoever submitted the input."""


class Fetcher:
    """One for a worker; thread-safe. Every fetch is a connection of its own."""

    def __init__(self, egress: Egress, tls: ssl.SSLContext | None = None) -> None:
        self._egress = egress
        self._tls = tls or headway.tls.context()

    def fetch(self, url: str, limits: Fetch) -> tuple[bytes, str]:
        """(body, media type). Blocks for `timeout_s`, or as long as the resolver of names hangs. Raises FetchFailed."""
        deadline = time.monotonic() + limits.timeout_s
        try:
            plain = self._egress.checked_url(url)
            with httpcore.ConnectionPool(
                ssl_context=self._tls, network_backend=_Backend(self._egress, deadline, plain.startswith("https:"))
            ) as pool:
                return _get(pool, plain, limits.max_bytes)
        except UrlRefused as refused:
            raise FetchFailed(str(refused)) from refused
        except httpcore.TimeoutException as late:
            raise FetchFailed(f"its URL did not answer in full within {limits.timeout_s:g} s") from late
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol, OSError) as fault:
            raise FetchFailed(f"its URL cannot be fetched: {_reason(fault)}") from fault


def _get(pool: httpcore.ConnectionPool, url: str, most: int) -> tuple[bytes, str]:
    headers = [
        ("User-Agent", f"headway/{headway.__version__}"),
        ("Accept", "*/*"),
        ("Accept-Encoding", "identity"),
        ("Connection", "close"),
    ]
    with pool.stream("GET", url, headers=headers) as response:
        said = {name.lower(): value for name, value in reversed(response.headers)}
        if 300 <= response.status < 400:
            raise FetchFailed(f"its URL answers {response.status}, and redirects are not followed")
        if response.status != 200:
            raise FetchFailed(f"its URL answers {response.status}")
        if said.get(b"content-encoding", b"identity").strip().lower() != b"identity":
            raise FetchFailed("its URL answers with a content encoding that nobody asked for")
        declared = said.get(b"content-length", b"")
        if declared.isdigit() and int(declared[:20]) > most:
            raise _too_large(most)
        parts, size = [], 0
        for part in response.iter_stream():
            size += len(part)
            if size > most:
                raise _too_large(most)
            parts.append(part)
    return b"".join(parts), _media_type(said.get(b"content-type", b""))


def _too_large(most: int) -> FetchFailed:
    return FetchFailed(f"its URL answers with more than {most} bytes (fetch_max_bytes)")


def _media_type(said: bytes) -> str:
    """The type in lower case; its parameters as they are."""
    text = said.decode("latin-1").strip()
    if not text or len(text) > _LONGEST_TYPE or not text.isascii() or not text.isprintable():
        return _UNKNOWN
    essence, semicolon, parameters = text.partition(";")
    return essence.strip().lower() + semicolon + parameters


def _reason(fault: Exception) -> str:
    cause = fault
    while not isinstance(cause, ssl.SSLError) and cause.__cause__ is not None:
        cause = cause.__cause__  # type: ignore[assignment]
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its TLS certificate is not valid: {cause.verify_message}"
    return str(fault)[:200] or type(fault).__name__


class _Backend(httpcore.NetworkBackend):
    """Connects to checked addresses only, and does nothing after the deadline."""

    def __init__(self, egress: Egress, deadline: float, secure: bool) -> None:
        self._egress = egress
        self._deadline = deadline
        self._secure = secure
        self._sync = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        failed: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in self._egress.resolve(host, port, secure=self._secure):
            try:
                stream = self._sync.connect_tcp(address, port, timeout=min(_CONNECT_S, _left(self._deadline)))
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as fault:
                failed = fault
            else:
                return _Stream(stream, self._deadline)
        raise failed


class _Stream(httpcore.NetworkStream):
    """A connection whose every step ends at the deadline: a body that drips is not read for ever."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, timeout=_left(self._deadline))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, timeout=_left(self._deadline))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        name = None if server_hostname is None else server_hostname.rstrip(".")
        return _Stream(self._stream.start_tls(ssl_context, name, timeout=_left(self._deadline)), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout("the time is up")
    return left
