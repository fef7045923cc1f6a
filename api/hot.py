"""The ASGI function in front: serves the hot routes by method and path, and passes all else on, lifespan included.

A FastAPI route costs as much as all the rest of accepting a prediction. The functions awaited here are those that the
FastAPI routes await; only the way to them is shorter. What holds for every answer, X-Request-Id and the count by route,
is done here once.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import metrics, problems
from api.endpoint import Endpoint, EndpointFunction
from api.exchange import Call, Disconnected, request_id
from api.problems import Problem
from api.service import Service

#: Where the scope carries the request's id to FastAPI's routes.
REQUEST_ID = "headway.request_id"

_Match = tuple[EndpointFunction, Mapping[str, str], str]

#: Paths remembered; they hold model names, of which a client may make up any number.
_MOST_PATHS = 4096


class Front:
    """`hot`: the endpoints to serve here, those of a path that takes nothing but names."""

    def __init__(self, service: Service, app: ASGIApp, hot: Sequence[Endpoint]) -> None:
        self._service = service
        self._app = app
        self._patterns = [(endpoint, re.compile(_pattern(endpoint.path))) for endpoint in hot]
        self._matches: dict[tuple[str, str], _Match | None] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        id_ = request_id(scope["headers"])
        match = self._match(scope["method"], scope["path"])
        if match is None:
            await self._pass_on(scope, receive, send, id_)
            return
        function, params, route = match
        try:
            answer = await function(self._service, Call(scope, receive, params, id_))
        except Disconnected:
            return
        except asyncio.CancelledError:  # the server's patience with what is in flight is over
            answer = problems.answer(Problem.unavailable("The API is stopping."), path=scope["path"], request_id=id_)
        except Exception as error:
            answer = problems.answer(error, path=scope["path"], request_id=id_)
        metrics.count_request(route, answer.status)
        await answer.send(send, id_)

    def _match(self, method: str, path: str) -> _Match | None:
        key = (method, path)
        try:
            return self._matches[key]
        except KeyError:
            match = self._search("GET" if method == "HEAD" else method, path)
            if len(path) <= 256 and not path.startswith("/v1/predictions/"):
                if len(self._matches) >= _MOST_PATHS:
                    self._matches.clear()
                self._matches[key] = match
            return match

    def _search(self, method: str, path: str) -> _Match | None:
        for endpoint, pattern in self._patterns:
            if endpoint.method == method and (found := pattern.fullmatch(path)) is not None:
                return endpoint.function, found.groupdict(), endpoint.path
        return None

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send, id_: str) -> None:
        """HEAD goes on as GET; the server leaves its body out."""
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        inner: dict[str, Any] = {**scope, "method": method, REQUEST_ID: id_}
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message = {**message, "headers": [*message.get("headers", ()), (b"x-request-id", id_.encode())]}
                metrics.count_request(_route_of(inner), message["status"])
            await send(message)

        try:
            await self._app(inner, receive, sending)
        except Exception as error:
            if not started:
                await problems.answer(error, path=scope["path"], request_id=id_).send(send, id_)


def _pattern(path: str) -> str:
    """`{name}` stands for a segment; names admit no `:`, which separates a verb."""
    return re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/:]+)", re.escape(path))


def _route_of(scope: Scope) -> str:
    return getattr(scope.get("route"), "path_format", "other")
