"""What stands in front of the routes: who calls, from where, and on the hot ones nothing else.

A FastAPI route, and ASGI itself, cost as much as all the rest of accepting a prediction. So a connection that has read
the head of a hot request asks `match`, and if it is one, `serve` answers it without either; everything else comes
through `__call__`, which passes it on, lifespan included. The functions awaited here are those that the FastAPI routes
await. What holds for every request is done here once: whose page and which key it comes from before anything else, so
that nothing at all is done for strangers, not even reading their body; X-Request-Id, CORS and the count by route on
the way out.

A path that is not known to be open needs a key, whether or not there is anything at it. What the key must allow is
asked of the route that was matched.
"""

import asyncio
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import metrics, problems
from api.access import Caller
from api.answers import Answer, Headers, Streamed
from api.direct import Exchange, Match
from api.endpoint import Endpoint
from api.entrance import Entrance, one_authorization
from api.exchange import Disconnected, request_id, single_headers
from api.problems import Problem
from api.service import Service
from api.sites import Sites
from headway.clock import new_id
from headway.keys import DEFAULT_TENANT

log = logging.getLogger(__name__)

#: Where the scope carries to FastAPI's routes what was found out here: the request's id, its headers, the caller.
REQUEST_ID = "headway.request_id"
HEADERS = "headway.headers"
CALLER = "headway.caller"
#: True where the client asked by HEAD, which goes on as GET.
HEAD = "headway.head"


#: Paths remembered; they hold model names, of which a client may make up any number.
_MOST_PATHS = 4096


class Front:
    """`hot`: the endpoints to serve here, those of a path that takes nothing but names. `open_paths` need no key."""

    def __init__(
        self, service: Service, app: ASGIApp, hot: Sequence[Endpoint], *, sites: Sites, open_paths: Sequence[str]
    ) -> None:
        self._service = service
        self._app = app
        self._sites = sites
        self._open = re.compile("|".join(map(_pattern, open_paths)) or r"(?!)")
        self._patterns = [(endpoint, re.compile(_pattern(endpoint.path))) for endpoint in hot]
        self._matches: dict[tuple[bytes, bytes], Match | None] = {}
        self._entrance = Entrance(service)

    # Hot requests

    def match(self, method: bytes, path: bytes) -> Match | None:
        """None for what is not hot; `path` as it was sent, without a query."""
        key = (method, path)
        try:
            return self._matches[key]
        except KeyError:
            match = self._search("GET" if method == b"HEAD" else method.decode("latin-1"), path.decode("latin-1"))
            if len(path) <= 256 and not path.startswith(b"/v1/predictions/"):
                if len(self._matches) >= _MOST_PATHS:
                    self._matches.clear()
                self._matches[key] = match
            return match

    def _search(self, method: str, path: str) -> Match | None:
        if "%" in path or not path.isascii():
            return None
        for endpoint, pattern in self._patterns:
            if endpoint.method == method and (found := pattern.fullmatch(path)) is not None:
                return Match(endpoint, found.groupdict(), path)
        return None

    def refusal(self, error: Exception, path: str, request_id: str) -> Answer:
        """How whatever went wrong is told."""
        return problems.answer(error, path=path, request_id=request_id)

    async def serve(self, exchange: Exchange) -> None:
        """Answers a hot request."""
        raw = exchange.raw_headers
        headers = exchange.headers = single_headers(raw)
        id_ = exchange.request_id = request_id(raw) if b"x-request-id" in headers else new_id()
        endpoint = exchange.endpoint
        caller: Caller | None = None
        answer: Answer | Streamed
        try:
            self._sites.check(headers, version=exchange.version, server=exchange.server)
            if endpoint.scope is None:
                exchange.tenant = DEFAULT_TENANT
            else:
                caller = self._enter(raw, headers)
                caller.must(endpoint.scope)
                exchange.tenant = caller.tenant
            answer = await endpoint.function(self._service, exchange)
        except Disconnected:
            self._leave(caller)
            exchange.abandon()
            return
        except asyncio.CancelledError:  # the server's patience with what is in flight is over
            answer = self.refusal(_stopping(), exchange.path, id_)
        except Exception as error:
            answer = self.refusal(error, exchange.path, id_)
        try:
            metrics.count_request(endpoint.path, answer.status)
            if isinstance(answer, Answer):
                await exchange.answer(answer, self._sites.shared(headers))
            else:
                await exchange.stream(answer, self._sites.shared(headers))
        finally:
            self._leave(caller)

    # All others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        raw = scope["headers"]
        id_ = request_id(raw)
        headers = single_headers(raw)
        send = self._sites.sharing(headers, send)
        caller: Caller | None = None
        passed: dict[str, Any] = {**scope, REQUEST_ID: id_, HEADERS: headers}
        answer: Answer | None
        try:
            server = (scope.get("server") or ("",))[0]
            self._sites.check(headers, version=scope["http_version"], server=server)
            answer = self._sites.preflight(scope, headers)
            if answer is None and self._open.fullmatch(scope["path"]) is None:
                caller = passed[CALLER] = self._enter(raw, headers)
        except Exception as error:
            answer = self.refusal(error, scope["path"], id_)
        try:
            if answer is None:
                await self._pass_on(passed, receive, send, id_)
                return
            metrics.count_request("other", answer.status)
            await answer.send(send, id_)
        finally:
            self._leave(caller)

    # Who calls

    def _enter(self, raw: Headers, headers: Mapping[bytes, bytes]) -> Caller:
        """Raises Problem."""
        if len(headers) != len(raw):
            one_authorization([name for name, _ in raw])
        return self._entrance.enter(headers.get(b"authorization"))

    def _leave(self, caller: Caller | None) -> None:
        self._entrance.leave(caller)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send, id_: str) -> None:
        """HEAD goes on as GET; the server leaves its body out."""
        head = scope["method"] == "HEAD"
        inner: dict[str, Any] = {**scope, "method": "GET" if head else scope["method"], HEAD: head}
        started = complete = False

        async def sending(message: Message) -> None:
            nonlocal started, complete
            if message["type"] == "http.response.start":
                started = True
                message = {**message, "headers": [*message.get("headers", ()), (b"x-request-id", id_.encode())]}
                metrics.count_request(_route_of(inner), message["status"])
            elif message["type"] == "http.response.body":
                complete = not message.get("more_body", False)
            await send(message)

        try:
            await self._app(inner, receive, sending)
        except Exception as error:
            if complete:
                pass  # the framework raises again what its handler has answered
            elif started:
                log.exception("an answer broke off", extra={"request_id": id_, "path": scope["path"][:200]})
            else:
                await self.refusal(error, scope["path"], id_).send(send, id_)


def _stopping() -> Problem:
    return Problem.unavailable("The API is stopping.")


def _pattern(path: str) -> str:
    """`{name}` stands for a segment; names admit no `:`, which separates a verb."""
    return re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/:]+)", re.escape(path))


def _route_of(scope: Scope) -> str:
    return getattr(scope.get("route"), "path_format", "other")
