"""A row of the table of routes: what `api.app` lists and `api.hot` short-cuts."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from api.answers import Answer, Streamed
from api.exchange import Call
from api.service import Service
from headway.keys import Scope

EndpointFunction = Callable[[Service, Call], Awaitable[Answer | Streamed]]


class Endpoint(NamedTuple):
    """HEAD is answered beside every GET. `scope`: what the caller's key must allow; None lets everybody in."""

    method: str
    path: str
    function: EndpointFunction
    operation: Mapping[str, Any] = {}
    status: int = 200
    documented: bool = True
    scope: Scope | None = "admin"
