"""What an endpoint returns: a status, headers and a body that is complete, or one that is written as it comes."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import msgspec
from starlette.types import Send

Headers = Sequence[tuple[bytes, bytes]]

#: Takes the next piece of a body, and returns when the client has taken enough of those before.
Write = Callable[[bytes], Awaitable[None]]

JSON_HEADERS: Headers = ((b"content-type", b"application/json"), (b"cache-control", b"private, no-cache"))


#: Statuses whose answer has no body, and so no length of one.
NO_BODY = (204, 304)


class Answer(NamedTuple):
    """`headers` without content-length and x-request-id, which `send` adds."""

    status: int
    body: bytes
    headers: Headers

    async def send(self, send: Send, request_id: str) -> None:
        headers = [*self.headers, (b"x-request-id", request_id.encode())]
        if self.status not in NO_BODY:
            headers.append((b"content-length", b"%d" % len(self.body)))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


class Streamed(NamedTuple):
    """A body that `write` makes piece by piece; it is canceled when the client hangs up."""

    headers: Headers
    write: Callable[[Write], Awaitable[None]]
    status: int = 200


class BrokenOff(Exception):  # noqa: N818  (what has become of an answer)
    """What was begun cannot be completed: the connection ends, so that nobody takes what has come for all of it."""


def json_answer(value: Any, status: int = 200) -> Answer:
    """An answer that is not worth a hand-made path."""
    return Answer(status, msgspec.json.encode(value), JSON_HEADERS)
