"""A dialect's port: its table of routes, its words for what goes wrong, and the same doors as everywhere.

Keys, hosts and pages of other sites are looked at as at the data port (`api.hot`); only how a refusal reads is the
dialect's own. All its routes are served without ASGI, and what is at no route as well.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import unquote

from starlette.types import Receive, Scope, Send

from api.answers import Answer, Streamed
from api.direct import Match
from api.endpoint import Endpoint, EndpointFunction
from api.exchange import Call, Disconnected
from api.hot import CALLER, HEADERS, Front
from api.service import Service
from api.sites import Sites
from headway.keys import Scope as KeyScope


class Route(NamedTuple):
    """`pattern`: of the whole path, percent-decoded; its named groups become the call's `params`."""

    methods: Sequence[str]
    pattern: re.Pattern[str]
    function: EndpointFunction
    name: str  # in metrics
    scope: KeyScope | None
    streams: bool = False  # its answer may be `Streamed`


class Dialect(Front):
    """The front of one port."""

    def __init__(
        self,
        service: Service,
        name: str,
        routes: Sequence[Route],
        *,
        refuse: Callable[[Exception], Answer],
        unknown: EndpointFunction,
    ) -> None:
        """`refuse` answers whatever is raised; `unknown` what is at no route, or asked by a method that it lacks.

        That method is among the call's `params`.
        """
        settings = service.settings
        sites = Sites(hosts=[settings.host, *settings.allowed_hosts], origins=(), public_url=settings.public_url)
        super().__init__(service, self._streamed, [], sites=sites, open_paths=())
        self._name = name
        self._routes = routes
        self._refuse = refuse
        self._unknown = unknown

    def refusal(self, error: Exception, path: str, request_id: str) -> Answer:
        return self._refuse(error)

    def _search(self, method: str, path: str) -> Match | None:
        found = self._find(method, unquote(path))
        if found is None:
            return Match(self._endpoint(method, "other", self._unknown, "read"), {"method": method}, path)
        route, params = found
        if route.streams:
            return None
        return Match(self._endpoint(method, route.name, route.function, route.scope), params, path)

    def _find(self, method: str, path: str) -> tuple[Route, Mapping[str, str]] | None:
        for route in self._routes:
            if method in route.methods and (match := route.pattern.fullmatch(path)) is not None:
                return route, {name: value for name, value in match.groupdict().items() if value is not None}
        return None

    def _endpoint(self, method: str, name: str, function: EndpointFunction, scope: KeyScope | None) -> Endpoint:
        return Endpoint(method, f"{self._name} {name}", function, scope=scope)

    async def _streamed(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI, for answers that are written as they come."""
        if scope["type"] != "http":
            return
        found = self._find(scope["method"], scope["path"])
        function, params = (
            (self._unknown, {"method": scope["method"]}) if found is None else (found[0].function, dict(found[1]))
        )
        caller = scope[CALLER]
        if found is not None:
            caller.must(found[0].scope)
        request_id = scope["headway.request_id"]
        call = Call(scope, receive, params, request_id, headers=scope[HEADERS], tenant=caller.tenant, key=caller.key)
        try:
            answer = await function(self._service, call)
        except Disconnected:
            return
        except Exception as error:
            answer = self.refusal(error, scope["path"], request_id)
        if isinstance(answer, Streamed):
            await _stream(answer, send)
        else:
            headers = [*answer.headers, (b"content-length", b"%d" % len(answer.body))]
            await send({"type": "http.response.start", "status": answer.status, "headers": headers})
            await send({"type": "http.response.body", "body": answer.body})


async def _stream(answer: Streamed, send: Send) -> None:
    await send({"type": "http.response.start", "status": answer.status, "headers": list(answer.headers)})

    async def write(piece: bytes) -> None:
        await send({"type": "http.response.body", "body": piece, "more_body": True})

    await answer.write(write)
    await send({"type": "http.response.body", "body": b""})
