"""TorchServe's REST protocol: inference, management and metrics, each at a port of its own."""

import re
from collections.abc import Callable, Sequence

from api.answers import Answer, Streamed
from api.dialects.front import Dialect, Route
from api.dialects.torchserve import counters, errors, inference, management
from api.dialects.torchserve.errors import Refused
from api.endpoint import EndpointFunction
from api.exchange import Call
from api.service import Service
from headway.keys import Scope

_ANY = "GET POST PUT DELETE PATCH"
_MODEL = r"(?P<model>[^/:]+)"
_VERSION = r"(?P<version>[^/]+)"


def _route(methods: str, pattern: str, function: EndpointFunction, name: str, scope: Scope | None) -> Route:
    return Route(methods.split(), re.compile(pattern), function, name, scope)


def inference_front(service: Service) -> Dialect:
    kserve = rf"/v1/models/{_MODEL}(?:/versions/{_VERSION})?"
    infer = rf"/v2/models/{_MODEL}(?:/versions/{_VERSION})?"
    return _front(
        service,
        [
            _route(_ANY, rf"/predictions/{_MODEL}/?", inference.predict, "predict", "predict"),
            _route(
                _ANY, rf"/predictions/{_MODEL}/{_VERSION}(?:/(?P<rest>.*))?", inference.predict, "predict", "predict"
            ),
            _route(_ANY, rf"/explanations/{_MODEL}(?:/{_VERSION})?/?", inference.explain, "explain", "predict"),
            _route("GET POST PUT", "/ping", inference.ping, "ping", None),
            _route(_ANY, rf"/models/{_MODEL}/invoke", inference.predict, "invoke", "predict"),
            _route(_ANY, "/invocations", inference.predict, "invoke", "predict"),
            _route(_ANY, f"{kserve}:predict", inference.predict, "predict", "predict"),
            _route(_ANY, f"{kserve}:explain", inference.explain, "explain", "predict"),
            _route(_ANY, f"{infer}/infer", inference.predict, "predict", "predict"),
            _route(_ANY, f"{infer}/explain", inference.explain, "explain", "predict"),
            _route("OPTIONS", "/", inference.describe_api, "description", "read"),
            _route("GET", "/api-description", inference.describe_api, "description", "read"),
            _route(
                "OPTIONS", rf"/predictions/{_MODEL}(?:/{_VERSION})?", inference.describe_model, "description", "read"
            ),
        ],
    )


def management_front(service: Service) -> Dialect:
    return _front(
        service,
        [
            _route("GET", "/models/?", management.list_models, "models", "read"),
            _route("POST", "/models/?", management.register, "register", "admin"),
            _route("PUT", rf"/models/{_MODEL}/{_VERSION}/set-default", management.set_default, "set-default", "admin"),
            _route("GET", rf"/models/{_MODEL}(?:/{_VERSION})?/?", management.describe, "describe", "read"),
            _route("PUT", rf"/models/{_MODEL}(?:/{_VERSION})?/?", management.scale, "scale", "admin"),
            _route("DELETE", rf"/models/{_MODEL}(?:/{_VERSION})?/?", management.unregister, "unregister", "admin"),
            _route("OPTIONS", "/", management.describe_api, "description", "read"),
            _route("GET", "/api-description", management.describe_api, "description", "read"),
        ],
    )


def metrics_front(service: Service) -> Dialect:
    routes = [_route("GET", "/metrics", counters.metrics, "metrics", "read")]
    return Dialect(service, "torchserve", routes, refuse=errors.answer, unknown=_unknown(routes))


def _front(service: Service, routes: list[Route]) -> Dialect:
    return Dialect(
        service,
        "torchserve",
        [route._replace(function=_counted(route.function)) for route in routes],
        refuse=_refused,
        unknown=_unknown(routes),
    )


def _counted(function: EndpointFunction) -> EndpointFunction:
    async def answer(service: Service, call: Call) -> Answer | Streamed:
        answer = await function(service, call)
        counters.answered(answer.status)
        return answer

    return answer


def _refused(error: Exception) -> Answer:
    answer = errors.answer(error)
    counters.answered(answer.status)
    return answer


def _unknown(routes: Sequence[Route]) -> EndpointFunction:
    async def refuse(service: Service, call: Call) -> Answer:
        message = "please refer to API document."
        if call.path == "/" or any(route.pattern.fullmatch(call.path) for route in routes):
            raise Refused(405, "MethodNotAllowedException", f"Requested method is not allowed, {message}")
        raise Refused(404, "ResourceNotFoundException", f"Requested resource is not found, {message}")

    return refuse


FRONTS: dict[tuple[str, str], Callable[[Service], Dialect]] = {
    ("torchserve", "inference"): inference_front,
    ("torchserve", "management"): management_front,
    ("torchserve", "metrics"): metrics_front,
}
