"""MLServer's REST protocol: the Open Inference Protocol with content types, at one port."""

import re
from urllib.parse import unquote

from api.answers import Answer
from api.dialects.front import Dialect, Route
from api.dialects.mlserver import catalogue, errors, inference
from api.dialects.mlserver.errors import detailed
from api.endpoint import EndpointFunction
from api.exchange import Call
from api.service import Service
from headway.keys import Scope

_MODEL = r"/v2/models/(?P<model>[^/]+)(?:/versions/(?P<version>[^/]+))?"


def _route(method: str, pattern: str, function: EndpointFunction, name: str, scope: Scope | None) -> Route:
    return Route((method,), re.compile(pattern), function, name, scope)


ROUTES = (
    _route("POST", f"{_MODEL}/(?:infer|generate)", inference.infer, "infer", "predict"),
    _route("POST", f"{_MODEL}/(?:infer|generate)_stream", inference.infer_stream, "infer_stream", "predict"),
    _route("GET", "/v2", catalogue.server, "server", "read"),
    _route("GET", "/v2/health/live", catalogue.live, "health", None),
    _route("GET", "/v2/health/ready", catalogue.ready, "health", None),
    _route("GET", _MODEL, catalogue.model, "model", "read"),
    _route("GET", f"{_MODEL}/ready", catalogue.model_ready, "model ready", None),
    _route("POST", "/v2/repository/index", catalogue.index, "index", "read"),
    _route("POST", "/v2/repository/models/(?P<model>[^/]+)/load", catalogue.load, "load", "admin"),
    _route("POST", "/v2/repository/models/(?P<model>[^/]+)/unload", catalogue.unload, "unload", "admin"),
)


def front(service: Service) -> Dialect:
    return Dialect(service, "mlserver", ROUTES, refuse=errors.answer, unknown=_unknown)


async def _unknown(service: Service, call: Call) -> Answer:
    path = unquote(call.path)
    methods = [method for route in ROUTES if route.pattern.fullmatch(path) for method in route.methods]
    if methods:
        raise detailed(405, "Method Not Allowed", ((b"allow", ", ".join(methods).encode()),))
    raise detailed(404, "Not Found")
