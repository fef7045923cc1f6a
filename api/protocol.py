"""Limits and refusals of HTTP itself, before there is a request: uvicorn's protocol, answering with problems."""

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from api import problems
from api.problems import Problem
from headway.clock import new_id

MOST_URL_BYTES = 8 * 1024
MOST_HEADER_BYTES = 64 * 1024


class Protocol(HttpToolsProtocol):
    """What is raised in a callback of the parser ends the connection after `send_400_response`."""

    _refusal: Problem | None = None
    _header_bytes = 0

    def on_message_begin(self) -> None:
        self._header_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > MOST_URL_BYTES:
            self._refuse("uri_too_long")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > MOST_HEADER_BYTES:
            self._refuse("headers_too_large")
        super().on_header(name, value)

    def _refuse(self, code: str) -> None:
        self._refusal = Problem.of(code)
        raise self._refusal

    def send_400_response(self, msg: str) -> None:
        id_ = new_id()
        refusal = self._refusal or Problem("malformed_request", "This is not a valid HTTP/1.1 request.")
        answer = problems.answer(refusal, path="", request_id=id_)
        headers = [
            *self.server_state.default_headers,
            *answer.headers,
            (b"x-request-id", id_.encode()),
            (b"content-length", b"%d" % len(answer.body)),
            (b"connection", b"close"),
        ]
        lines = [b"%b: %b\r\n" % header for header in headers]
        self.transport.write(b"".join([STATUS_LINE[answer.status], *lines, b"\r\n", answer.body]))
        self.transport.close()
