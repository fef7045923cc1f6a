"""Requests as cases write them, replies as recordings hold them: small, readable, without what changes each time.

A body is one of: {"json": …}, {"text": "…"}, {"hex": "…"}; with a header that says how much of it is JSON, as binary
tensors have it, {"json": …, "hex": "…"}. None is no body.
"""

import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

_TIMEOUT_S = 60.0
#: Between requests that are to travel together, so that their order is that of the case.
_APART_S = 0.03
#: Says how many of a body's bytes are JSON.
JSON_LENGTH = "inference-header-content-length"
#: Of a reply's headers, those that a client looks at.
_HEADERS = (
    "content-type", "content-encoding", JSON_LENGTH, "allow", "retry-after", "x-request-id", "x-said",
    "ce-specversion", "ce-type", "ce-source", "ce-id", "ce-time", "ce-requestid", "ce-modelid",
    "content-disposition", "x-bentoml-request-id",
)  # fmt: skip
#: Headers that are there or not: what they say is another thing each time, or how a JSON encoder spaces.
_ANYTHING = (JSON_LENGTH, "x-request-id", "x-bentoml-request-id", "ce-time")
ANY = "*"
#: The port of requests that are no HTTP (`tests.dialects.streams`).
GRPC = "grpc"

Body = dict[str, Any] | None


class Request(msgspec.Struct, omit_defaults=True):
    """One HTTP request to one of a system's ports."""

    path: str
    method: str = "GET"
    body: Body = None
    headers: dict[str, str] = {}
    port: str = "inference"


class Reply(msgspec.Struct, omit_defaults=True):
    """What came back. With `broken` nothing did, and this is why."""

    status: int = 0
    headers: dict[str, str] = {}
    body: Body = None
    broken: str = ""


class Case(msgspec.Struct, omit_defaults=True):
    """Requests that are sent together, mostly one; with `replies` it has been recorded."""

    name: str
    requests: list[Request]
    replies: list[Reply] = []
    slow: bool = False  # left out where there is little time
    in_order: bool = False  # its requests are sent one after the other (`tests.dialects.tasks`)


class Recording(msgspec.Struct):
    """What a real server answered."""

    server: str
    cases: list[Case]

    def json(self) -> str:
        """A line a request and a reply: to be read, and to be compared by git."""
        lines = []
        for case in self.cases:
            parts = [
                f'    "{key}": [\n' + ",\n".join(f"      {_line(one)}" for one in values) + "\n    ]"
                for key, values in (("requests", case.requests), ("replies", case.replies))
            ]
            head = f'    "name": {_line(case.name)},\n' + ('    "slow": true,\n' if case.slow else "")
            head += '    "in_order": true,\n' if case.in_order else ""
            lines.append("  {\n" + head + ",\n".join(parts) + "\n  }")
        return f'{{\n"server": {_line(self.server)},\n"cases": [\n' + ",\n".join(lines) + "\n]\n}\n"


def _line(value: Any) -> str:
    return json.dumps(msgspec.to_builtins(value), ensure_ascii=False)


class Volatile(msgspec.Struct):
    """What is another thing each time, in a system's replies."""

    keys: frozenset[str] = frozenset()  # of JSON, whose values are then "*"
    texts: dict[str, str] = {}  # what stands in strings → what to write for it; the longest first

    def of(self, value: Any) -> Any:
        """The same without it."""
        if isinstance(value, dict):
            return {key: ANY if key in self.keys else self.of(one) for key, one in value.items()}
        if isinstance(value, list):
            return [self.of(one) for one in value]
        if isinstance(value, str):
            for text in sorted(self.texts, key=len, reverse=True):
                value = value.replace(text, self.texts[text])
            return _UUID.sub("UUID", value)
        return value


_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def send(requests: Sequence[Request], ports: Mapping[str, str], volatile: Volatile) -> list[Reply]:
    """`ports`: name → http://host:port."""
    if len(requests) == 1:
        return [send_one(requests[0], ports, volatile)]
    replies: list[Reply] = [Reply()] * len(requests)

    def one(index: int) -> None:
        time.sleep(index * _APART_S)
        replies[index] = send_one(requests[index], ports, volatile)

    threads = [threading.Thread(target=one, args=[index]) for index in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return replies


def send_one(request: Request, ports: Mapping[str, str], volatile: Volatile) -> Reply:
    """What comes back."""
    if request.port == GRPC:
        from tests.dialects import streams  # gRPC, only for cases of it

        return streams.send(request, ports[GRPC], volatile)
    body, length = _encode(request.body)
    headers = dict(request.headers)
    if length is not None:
        headers.setdefault("Inference-Header-Content-Length", str(length))
    connection = http.client.HTTPConnection(ports[request.port].removeprefix("http://"), timeout=_TIMEOUT_S)
    try:
        connection.request(request.method, request.path, body, headers)
        reply = connection.getresponse()
        content = reply.read()
    except (http.client.HTTPException, OSError) as error:
        why = "nothing came in time" if isinstance(error, socket.timeout) else "the connection was closed"
        return Reply(broken=why)
    finally:
        connection.close()
    given = {name.lower(): value for name, value in reply.getheaders()}
    kept = {name: ANY if name in _ANYTHING else volatile.of(given[name]) for name in _HEADERS if name in given}
    return Reply(reply.status, kept, volatile.of(_decode(content, given)))


def _encode(body: Body) -> tuple[bytes | None, int | None]:
    """The bytes, and how many of them are JSON where that has to be said."""
    if body is None:
        return None, None
    encoded = b""
    if "json" in body:
        encoded = json.dumps(body["json"], separators=(",", ":")).encode()
    elif "text" in body:
        encoded = body["text"].encode()
    if "hex" not in body:
        return encoded, None
    return encoded + bytes.fromhex(body["hex"]), len(encoded) if "json" in body else None


def _decode(content: bytes, headers: Mapping[str, str]) -> Body:
    if not content:
        return None
    if JSON_LENGTH in headers:
        length = int(headers[JSON_LENGTH])
        return {"json": json.loads(content[:length]), "hex": content[length:].hex(" ", 4)}
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return {"hex": content.hex(" ", 4)}
    try:
        # As text they may differ in spaces; a bare number or string is what a handler wrote.
        return {"json": json.loads(text, parse_constant=_refuse)} if text.lstrip()[:1] in ("{", "[") else {"text": text}
    except ValueError:
        return {"text": text}


def _refuse(constant: str) -> None:
    """NaN is in no JSON but Python's."""
    raise ValueError(constant)
