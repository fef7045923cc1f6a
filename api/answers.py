"""What an endpoint returns: a status, headers and a body that is complete."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from starlette.types import Send

Headers = Sequence[tuple[bytes, bytes]]

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


def json_answer(value: Any, status: int = 200) -> Answer:
    """An answer that is not worth a hand-made path."""
    return Answer(status, msgspec.json.encode(value), JSON_HEADERS)
