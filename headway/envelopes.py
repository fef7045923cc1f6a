"""A request with its headers as one input, and a reply with its status and headers as one output.

Most inputs are JSON or bytes of a media type, and so are most outputs. Where a model of another server's kind is also
shown headers, or sets a status and headers of its own, the message itself is what is stored: RFC 9112's own form,
media type `message/http`. A name or value that cannot stand in a header is left out.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

REQUEST = "message/http;msgtype=request"
RESPONSE = "message/http;msgtype=response"

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")


class Request(NamedTuple):
    """`headers` by lower-case name."""

    target: str
    headers: Mapping[str, str]
    body: bytes


class Response(NamedTuple):
    """`headers` as the model has named them; no Content-Length."""

    status: int
    phrase: str
    headers: Mapping[str, str]
    body: bytes


def pack_request(request: Request) -> bytes:
    return _packed(f"POST {_clean(request.target).replace(' ', '%20')} HTTP/1.1", request.headers, request.body)


def unpack_request(message: bytes) -> Request:
    """Raises ValueError for what `pack_request` has not made."""
    start, headers, body = _unpacked(message)
    parts = start.split(" ")
    if len(parts) != 3:
        raise ValueError("no request line")
    return Request(parts[1], {name.lower(): value for name, value in headers.items()}, body)


def pack_response(response: Response) -> bytes:
    if not 100 <= response.status <= 999:
        raise ValueError(f"{response.status} is no status of HTTP")
    return _packed(f"HTTP/1.1 {response.status} {_clean(response.phrase)}", response.headers, response.body)


def unpack_response(message: bytes) -> Response:
    """Raises ValueError for what `pack_response` has not made."""
    start, headers, body = _unpacked(message)
    found = re.fullmatch(r"HTTP/1\.1 (\d{3}) (.*)", start)
    if found is None:
        raise ValueError("no status line")
    return Response(int(found[1]), found[2], headers, body)


_REFUSED = re.compile(r"(?:PredictionRefused: )?\[(\d{3})\] (.*)", re.DOTALL)


def refusal(status: int, message: str) -> str:
    """What a failed prediction says of the status that its handler asked for."""
    return f"[{status}] {message}"


def refused_with(message: str) -> tuple[int, str] | None:
    """The status and message of an error that says them; None for any other."""
    found = _REFUSED.fullmatch(message)
    return None if found is None else (int(found[1]), found[2])


def _clean(text: str) -> str:
    return text if _VALUE.fullmatch(text) else ""


def _packed(start: str, headers: Mapping[str, str], body: bytes) -> bytes:
    lines = [start]
    for name, value in headers.items():
        if _NAME.fullmatch(name) and _VALUE.fullmatch(value):
            lines.append(f"{name}: {value.strip()}")
    return "\r\n".join((*lines, "", "")).encode("utf-8", "surrogateescape") + body


def _unpacked(message: bytes) -> tuple[str, dict[str, str], bytes]:
    head, separator, body = message.partition(b"\r\n\r\n")
    if not separator:
        raise ValueError("no end of the headers")
    start, *lines = head.decode("utf-8", "surrogateescape").split("\r\n")
    headers = {}
    for line in lines:
        name, colon, value = line.partition(": ")
        if not colon:
            raise ValueError("no header")
        headers[name] = value
    return start, headers, body
