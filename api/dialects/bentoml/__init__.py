"""BentoML's HTTP protocol at one port: the APIs of a service, the verbs of its tasks, schema, health and metrics."""

import re

from api.answers import Answer, Streamed
from api.dialects.bentoml import counters, description, errors, health, inference
from api.dialects.front import Dialect, Route
from api.endpoint import EndpointFunction
from api.exchange import Call
from api.service import Service
from headway.keys import Scope

#: Paths that no route of a service takes.
_OWN = r"(?:livez|healthz|readyz|schema\.json|docs\.json|metrics)"


def front(service: Service) -> Dialect:
    def at(methods: str, pattern: str, function: EndpointFunction, name: str, scope: Scope | None) -> Route:
        return Route(methods.split(), re.compile(pattern), function, name, scope)

    routes = [
        at("GET HEAD", "/(livez|healthz)", health.live, "health", None),
        at("GET HEAD", "/readyz", health.ready, "health", None),
        at("GET HEAD", r"/schema\.json", description.schema, "schema", "read"),
        at("GET HEAD", r"/docs\.json", description.openapi, "openapi", "read"),
        at("GET HEAD", "/metrics", counters.metrics, "metrics", "read"),
        at("GET HEAD", "/(?!OWN$).+".replace("OWN", _OWN), inference.called_by("GET"), "task", "read"),
        at("POST", "/(?!OWN$).+".replace("OWN", _OWN), inference.called_by("POST"), "call", "predict"),
        at("PUT", "/(?!OWN$).+".replace("OWN", _OWN), inference.called_by("PUT"), "cancel", "predict"),
    ]
    own, others = re.compile(f"/{_OWN}"), inference.called_by("")

    async def unknown(service: Service, call: Call) -> Answer | Streamed:
        if own.fullmatch(call.path):
            raise errors.not_allowed("HEAD, GET")
        return await others(service, call)

    return Dialect(service, "bentoml", routes, refuse=errors.answer, unknown=unknown)
