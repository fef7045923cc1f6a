"""KServe's model server: both of its protocols at one port, with its metrics."""

import re
from urllib.parse import unquote

from api.answers import Answer
from api.dialects.front import Dialect, Route
from api.dialects.kserve import counters, errors, v1, v2
from api.dialects.kserve.errors import detailed
from api.endpoint import EndpointFunction
from api.exchange import Call
from api.service import Service
from headway.keys import Scope

_V1 = r"/v1/models/(?P<model>[^/]+?)"
_V2 = r"/v2/models/(?P<model>[^/]+)(?:/versions/(?P<version>[^/]+))?"


def _route(method: str, pattern: str, function: EndpointFunction, name: str, scope: Scope | None) -> Route:
    return Route((method,), re.compile(pattern), function, name, scope)


ROUTES = (
    _route("POST", f"{_V1}:predict", v1.predict, "predict", "predict"),
    _route("POST", f"{_V1}:explain", v1.explain, "explain", "predict"),
    _route("GET", "/", v1.live, "live", None),
    _route("GET", "/metrics", counters.metrics, "metrics", "read"),
    _route("GET", "/v1/models", v1.models, "models", "read"),
    _route("GET", _V1, v1.model, "model", None),
    _route("POST", f"{_V2}/infer", v2.infer, "infer", "predict"),
    _route("GET", "/v2", v2.server, "server", "read"),
    _route("GET", "/v2/health/live", v2.live, "health", None),
    _route("GET", "/v2/health/ready", v2.ready, "health", None),
    _route("GET", "/v2/models", v2.models, "models", "read"),
    _route("GET", _V2, v2.model, "model", "read"),
    _route("GET", f"{_V2}/ready", v2.model_ready, "model ready", None),
    _route("POST", "/v2/repository/models/(?P<model>[^/]+)/load", v2.load, "load", "admin"),
    _route("POST", "/v2/repository/models/(?P<model>[^/]+)/unload", v2.unload, "unload", "admin"),
)


def front(service: Service) -> Dialect:
    return Dialect(service, "kserve", ROUTES, refuse=errors.answer, unknown=_unknown)


async def _unknown(service: Service, call: Call) -> Answer:
    path = unquote(call.path)
    methods = [method for route in ROUTES if route.pattern.fullmatch(path) for method in route.methods]
    if methods:
        raise detailed(405, "Method Not Allowed", ((b"allow", ", ".join(methods).encode()),))
    raise detailed(404, "Not Found")
