"""HTTP itself, before there is a request: uvicorn's protocol, stricter, bounded, and answering with problems.

What is refused here never reaches the application: heads that are too long or have too many fields, targets that are no
path, framing that two servers could read differently. Hot requests are answered without ASGI (`api.direct`). `look` is
called every second or so (`api.patience`) and ends a connection whose client has been too slow.
"""

import asyncio
import re
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from api import metrics, problems
from api.direct import Exchange
from api.exchange import CONNECTION
from api.hot import Front
from api.patience import House, Watched
from api.problems import Problem
from headway.clock import new_id

MOST_URL_BYTES = 8 * 1024
MOST_HEADER_BYTES = 64 * 1024
MOST_HEADERS = 100
_VERSIONS = ("1.1", "1.0")

# What a connection waits for; `_REST` is of a body that nobody reads any more.
_REQUEST, _HEAD, _BODY, _REST, _ANSWER, _CLOSE = range(6)

#: Of a method that the parser does not know.
_METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,40} ")
#: One that it knows and that no route has.
_NO_METHOD = b"UNLINK "
#: Requests to change the protocol that may come in one piece.
_MOST_UPGRADES = 16


class Protocol(HttpToolsProtocol):
    """What is raised in a callback of the parser ends the connection after `send_400_response`."""

    _waits_for = _REQUEST
    _messages = 0  # begun
    _header_bytes = 0
    _headed = False  # what comes now is no header of the request
    _chunked = False
    _body_bytes = 0
    _marked = 0  # of these, those that were enough for the time before
    _streams = False
    _surplus = False
    _leaving = False
    _refusal: Problem | None = None
    _seen = (-1, 0, 0)  # what the last look found
    _begun: Exchange | None = None  # that is to be served when its body has come, or what there is of it
    address = ""  # that the client has connected to

    def __init__(self, config: Any, server_state: Any, app_state: dict[str, Any], _loop: Any = None) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.house: House = config.house
        self.front: Front = config.front
        self.since = 0.0  # when `_seen` was seen first, by the loop's clock

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.server is not None:
            self.address = self.server[0]
        self.since = self.loop.time()
        over = len(self.connections) - self.house.leaving - self.house.limits.most
        if over > 0 and not self.house.make_room(self._others(), self.since):
            metrics.refused("too_many_connections")
            self._surplus = True  # it is told when it asks: an answer before the question would be lost
            if over > self.house.surplus:
                transport.abort()

    def _others(self) -> "set[Watched]":
        return cast("set[Watched]", self.connections)  # all are of this class

    def connection_lost(self, exc: Exception | None) -> None:
        if self._leaving:
            self.house.leaving -= 1
        if self.scope is not None:
            self.scope.pop(CONNECTION, None)  # type: ignore[misc]
        super().connection_lost(exc)

    def expect_stream(self) -> None:
        """The body of this request is read as it comes, and may take its time."""
        self._streams = True

    # The parser's callbacks

    def on_message_begin(self) -> None:
        self._waits_for = _HEAD
        self._messages += 1
        self._header_bytes = self._body_bytes = self._marked = 0
        self._headed = self._chunked = self._streams = False
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > MOST_URL_BYTES:
            self._refuse("uri_too_long")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > MOST_HEADER_BYTES:
            self._refuse("headers_too_large")
        if self._headed:  # behind a chunked body: nothing may be said there that has been judged already
            return
        name = name.lower()
        self.headers.append((name, value))
        if len(self.headers) > MOST_HEADERS:
            self._refuse("headers_too_large")
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        elif name == b"transfer-encoding":
            # Anything but this is decoded by some and passed on by others.
            if self._chunked or value.lower() != b"chunked" or self.parser.get_http_version() != "1.1":
                raise ValueError("Transfer-Encoding")
            self._chunked = True

    def on_headers_complete(self) -> None:
        # An absolute form names a host besides Host, and a fragment never leaves a client.
        version = self.parser.get_http_version()
        if not self.url.startswith(b"/") or b"#" in self.url or version not in _VERSIONS:
            raise ValueError("request line")
        self._headed = True
        if self.parser.should_upgrade():
            return  # to nothing here: `data_received` reads it again as if it had not asked
        if self._surplus:
            self._refusal = Problem.unavailable("There are as many connections as the API takes.")
            raise self._refusal
        self._waits_for = _BODY
        path, _, query = self.url.partition(b"?")
        method = self.parser.get_method()
        match = self.front.match(method, path)
        if match is None:
            self._begin_for_asgi()
            return
        before = self.cycle
        exchange = Exchange(
            self,
            match,
            query,
            raw_headers=self.headers,
            version=version,
            head=method == b"HEAD",
            keep_alive=version != "1.0" and self.parser.should_keep_alive(),
            expects_continue=self.expect_100_continue,
        )
        self.cycle = exchange  # type: ignore[assignment]
        if before is None or before.response_complete:
            self._begun = exchange
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((exchange, self.app))  # type: ignore[arg-type]

    def _begin_for_asgi(self) -> None:
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers += headers
        self.scope[CONNECTION] = self  # type: ignore[literal-required]
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        cycle = self.cycle
        if not isinstance(cycle, Exchange):
            super().on_body(body)
        elif not cycle.response_complete:
            cycle.feed(body)

    def on_message_complete(self) -> None:
        if self._waits_for == _BODY:
            self._waits_for = _REQUEST
            cycle = self.cycle
            if not isinstance(cycle, Exchange):
                super().on_message_complete()
            elif not cycle.response_complete:
                cycle.completed()
                if cycle is self._begun:
                    self._serve(cycle)

    def _serve(self, exchange: Exchange) -> None:
        self._begun = None
        task = self.loop.create_task(self.front.serve(exchange))
        self.tasks.add(task)
        task.add_done_callback(self._served)

    def _served(self, task: "asyncio.Task[None]") -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.logger.error("a request was left without an answer", exc_info=error)
            self.transport.abort()

    def on_response_complete(self) -> None:
        """Without the timer for each: `look` sees what is idle."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            if isinstance(cycle, Exchange):
                self._serve(cycle)
            else:
                self._start_asgi_task(cycle, app)

    def _refuse(self, code: str) -> None:
        self._refusal = Problem.of(code)
        raise self._refusal

    # What comes

    def data_received(self, data: bytes) -> None:
        self._read(data)
        if self._begun is not None:  # the rest of its body is still to come
            if self.transport.is_closing():
                self._begun = None
            else:
                self._serve(self._begun)

    def _read(self, data: bytes) -> None:
        first = self._messages + 1 if self._waits_for == _REQUEST else 0
        upgrades = 0
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserInvalidMethodError as error:
                data = data.lstrip(b"\r\n")
                method = _METHOD.match(data)
                if self._messages != first or method is None:
                    self._malformed(error)
                    return
                # So that it is answered by who knows the routes: 405 with their methods, once it has shown its key.
                data, first = _NO_METHOD + data[method.end() :], 0
            except httptools.HttpParserUpgrade as upgrade:
                # What a server does not speak it ignores (RFC 9110 §7.8). The parser has skipped the body.
                upgrades += 1
                if upgrades > _MOST_UPGRADES:
                    self._malformed(upgrade)
                    return
                data = self._head_without_upgrade() + data[upgrade.args[0] :]
            except httptools.HttpParserError as error:
                self._malformed(error)
                return
            else:
                return
            self.parser = httptools.HttpRequestParser(self)
            self._waits_for = _REQUEST

    def _head_without_upgrade(self) -> bytes:
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            if name == b"connection":
                value = b", ".join(word for word in value.split(b",") if word.strip().lower() != b"upgrade")
            if name != b"upgrade":
                lines.append(b"%b: %b" % (name, value))
        return b"\r\n".join([*lines, b"", b""])

    def _malformed(self, error: Exception) -> None:
        self.logger.info("no valid HTTP request: %s", error)
        if self._waits_for != _BODY and self._answering():
            self.cycle.keep_alive = False  # those before it are answered, then it ends
        elif self._waits_for == _BODY and (self.pipeline or self.cycle.response_started):
            self.transport.abort()  # in the middle of an answer there is no room for another
        else:
            self._end(self._refusal or Problem("malformed_request", "This is not a valid HTTP/1.1 request."))

    def _answering(self) -> bool:
        return self.cycle is not None and (bool(self.pipeline) or not self.cycle.response_complete)

    def _end(self, problem: Problem) -> None:
        """Says why, and ends the connection."""
        id_ = new_id()
        answer = problems.answer(problem, path="", request_id=id_)
        headers = [
            *self.server_state.default_headers,
            *answer.headers,
            (b"x-request-id", id_.encode()),
            (b"content-length", b"%d" % len(answer.body)),
            (b"connection", b"close"),
        ]
        lines = [b"%b: %b\r\n" % header for header in headers]
        if self._answering():
            self.cycle.disconnected = True  # whoever reads this body reads no further, and answers nothing
            self.cycle.message_event.set()
        self.transport.write(b"".join([STATUS_LINE[answer.status], *lines, b"\r\n", answer.body]))
        self.transport.close()

    # What does not come

    @property
    def evictable(self) -> bool:
        """Nothing is lost if it ends now: no request has come in full that is not answered."""
        return self._state()[0] in (_REQUEST, _HEAD, _REST)

    def evict(self) -> None:
        self._leaving = True
        self.house.leaving += 1
        self.transport.close()

    def look(self, now: float) -> None:
        state = self._state()
        if state != self._seen:
            self._seen, self.since = state, now
            return
        waits_for, limits, late_s = state[0], self.house.limits, now - self.since
        if waits_for == _REQUEST:
            if late_s >= (limits.idle_s if self._messages else limits.read_s):
                self.transport.close()
        elif waits_for == _HEAD:
            if late_s >= limits.read_s:
                self._end(Problem.of("request_timeout"))
        elif waits_for == _BODY:
            if late_s >= (limits.stream_s if self._streams else limits.read_s):
                if self.pipeline or self.cycle.response_started:
                    self.transport.abort()
                else:
                    self._end(Problem.of("request_timeout"))
        elif waits_for == _REST:
            if late_s >= limits.read_s:
                self.transport.abort()
        elif waits_for == _CLOSE and late_s >= limits.answer_s:
            self.transport.abort()

    def _state(self) -> tuple[int, int, int]:
        """What is waited for, of which request, and a number that changes with progress."""
        unsent = self.transport.get_write_buffer_size()
        if self.transport.is_closing():
            return _CLOSE, self._messages, unsent
        if self._waits_for == _BODY:
            return self._state_of_body()
        if self._answering():
            return _ANSWER, self._messages, 0
        if unsent:
            return _CLOSE, self._messages, unsent
        return self._waits_for, self._messages, 0

    def _state_of_body(self) -> tuple[int, int, int]:
        cycle, limits = self.cycle, self.house.limits
        if cycle.response_complete:
            return _REST, self._messages, 0
        if self.flow.read_paused or cycle.waiting_for_100_continue:
            return _ANSWER, self._messages, self._body_bytes  # it is held back by us
        if self._body_bytes - self._marked >= (limits.stream_bytes if self._streams else limits.body_bytes):
            self._marked = self._body_bytes
        return _BODY, self._messages, self._marked
