"""The two applications as three lists: routes, exception handlers, and which of the routes are hot.

Every route is FastAPI's, so that OpenAPI, 404 and 405 with Allow are right; requests of the hot ones are served by
`api.hot`, which stands in front and awaits the same functions.
"""

import asyncio
import re
from collections.abc import Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

import headway
from api import (
    aliases,
    batches,
    changes,
    comparisons,
    devices,
    events,
    health,
    hot,
    keys,
    listing,
    loading,
    models,
    openapi,
    outputs,
    page,
    predict,
    predictions,
    problems,
    queues,
    redrive,
    routing,
    scrape,
    webhooks,
)
from api.access import NOBODY
from api.answers import NO_BODY, Answer, Streamed
from api.endpoint import Endpoint, EndpointFunction
from api.exchange import Call, Disconnected
from api.service import Service
from api.sites import Sites

#: Every route but the open ones may answer these; the last is for query parameters that it does not take.
_REFUSED = ("unauthenticated", "forbidden", "rate_limited", "validation_failed")
_SUBMISSION = (*_REFUSED, "malformed_request", "model_not_found", "version_not_found", "alias_not_found",
               "payload_too_large", "unsupported_media_type", "queue_full", "unavailable")  # fmt: skip
_PREDICT = (*_SUBMISSION, "not_acceptable", "invalid_input", "output_invalid", "prediction_failed", "wait_timeout")


def _create(path: str) -> Endpoint:
    operation = openapi.operation(
        "Submit a prediction",
        path=path,
        body="CreateBody",
        raw=True,
        answers="PredictionBody",
        statuses=(200, 202),
        headers=["Prefer", "Idempotency-Key"],
        problems=(*_SUBMISSION, "webhook_url_rejected", "idempotency_key_reused", "prediction_purged"),
    )
    return Endpoint("POST", path, predictions.create, operation, 202, scope="predict")


def _predict(path: str) -> Endpoint:
    operation = openapi.operation(
        "Predict now, several instances in one call",
        path=path,
        body="PredictBody",
        headers=["Prefer"],
        problems=_PREDICT,
    )
    return Endpoint("POST", path, predict.predict, operation, scope="predict")


def _get(path: str, function: EndpointFunction, summary: str, *codes: str, **more: Any) -> Endpoint:
    operation = openapi.operation(summary, path=path, problems=(*_REFUSED, *codes), **more)
    return Endpoint("GET", path, function, operation, scope="read")


def _change(verb: str, function: EndpointFunction, summary: str, *codes: str) -> Endpoint:
    path = f"/v1/predictions/{{id}}{verb}"
    problems = (*_REFUSED, "prediction_not_found", "prediction_purged", *codes, "unavailable")
    statuses = (200, 202) if function is changes.cancel else (202,)
    operation = openapi.operation(summary, path=path, problems=problems, answers="PredictionBody", statuses=statuses)
    return Endpoint("POST", path, function, operation, statuses[0], scope="predict")


def _open(path: str, function: EndpointFunction, summary: str, *codes: str) -> Endpoint:
    return Endpoint("GET", path, function, openapi.operation(summary, path=path, problems=codes), scope=None)


HOT = [
    _create("/v1/models/{model}/predictions"),
    _create("/v1/models/{model}/versions/{version}/predictions"),
    _predict("/v1/models/{model}:predict"),
    _predict("/v1/models/{model}/versions/{version}:predict"),
    _predict("/v1/models/{model}/aliases/{alias}:predict"),
    _get(
        "/v1/predictions/{id}",
        predictions.read,
        "Read a prediction, or wait for it",
        "prediction_not_found",
        "prediction_purged",
        "unavailable",
        answers="PredictionBody",
        statuses=(200, 304),
        headers=["Prefer", "If-None-Match"],
        query={"include": {"type": "string", "enum": ["input"]}},
    ),
]

DATA = [
    *HOT,
    Endpoint(
        "GET",
        "/v1/predictions/{id}/events",
        events.events,
        openapi.events_operation(
            "/v1/predictions/{id}/events",
            problems=(*_REFUSED, "malformed_request", "prediction_not_found", "prediction_purged", "unavailable"),
        ),
        scope="read",
    ),
    Endpoint(
        "GET",
        "/v1/predictions/{id}/output",
        outputs.output,
        openapi.output_operation(
            "/v1/predictions/{id}/output",
            problems=(*_REFUSED, "prediction_not_found", "prediction_purged", "not_terminal", "no_output",
                      "not_acceptable", "unavailable"),
        ),
        scope="read",
    ),
    _get(
        "/v1/predictions",
        listing.list_predictions,
        "List predictions, newest first",
        "invalid_cursor",
        "unavailable",
        answers="PredictionList",
        query=listing.PARAMETERS,
    ),
    _change("/cancel", changes.cancel, "Cancel a prediction", "already_terminal"),
    _change("/retry", changes.retry, "Run a prediction that ended without success again", "not_retryable"),
    Endpoint(
        "DELETE",
        "/v1/predictions/{id}",
        changes.delete,
        openapi.operation(
            "Delete a prediction that has ended",
            path="/v1/predictions/{id}",
            problems=[*_REFUSED, "prediction_not_found", "prediction_purged", "not_terminal", "unavailable"],
            statuses=(204,),
        ),
        204,
        scope="predict",
    ),
    _get(
        "/v1/predictions/{id}/deliveries",
        webhooks.list_deliveries,
        "What was sent to a prediction's webhook",
        "prediction_not_found",
        "prediction_purged",
        "unavailable",
    ),
    Endpoint(
        "POST",
        "/v1/deliveries/{id}/redeliver",
        webhooks.redeliver,
        openapi.operation(
            "Send a webhook again",
            path="/v1/deliveries/{id}/redeliver",
            problems=[*_REFUSED, "delivery_not_found", "unavailable"],
            statuses=(202,),
        ),
        202,
        scope="predict",
    ),
    Endpoint(
        "POST",
        "/v1/batches",
        batches.create_batch,
        openapi.operation(
            "Submit a file of predictions",
            path="/v1/batches",
            file=batches.FILES,
            answers="BatchBody",
            statuses=(200, 202),
            headers=["Idempotency-Key"],
            query=batches.CREATE_PARAMETERS,
            required=("model",),
            problems=[
                *(code for code in _SUBMISSION if code != "queue_full"),
                "webhook_url_rejected",
                "idempotency_key_reused",
                "already_terminal",
            ],
        ),
        202,
        scope="predict",
    ),
    _get(
        "/v1/batches",
        batches.list_batches,
        "List batches, newest first",
        "invalid_cursor",
        "unavailable",
        answers="BatchList",
        query=batches.LIST_PARAMETERS,
    ),
    _get("/v1/batches/{id}", batches.read_batch, "Read a batch", "batch_not_found", "unavailable", answers="BatchBody"),
    Endpoint(
        "GET",
        "/v1/batches/{id}/results",
        batches.batch_results,
        openapi.results_operation(
            "/v1/batches/{id}/results",
            query=batches.RESULTS_PARAMETERS,
            problems=(*_REFUSED, "batch_not_found", "unavailable"),
        ),
        scope="read",
    ),
    _get(
        "/v1/batches/{id}/deliveries",
        batches.list_batch_deliveries,
        "What was sent to a batch's webhook",
        "batch_not_found",
        "unavailable",
    ),
    Endpoint(
        "POST",
        "/v1/batches/{id}/cancel",
        batches.cancel_batch,
        openapi.operation(
            "Cancel a batch",
            path="/v1/batches/{id}/cancel",
            answers="BatchBody",
            statuses=(200, 202),
            problems=(*_REFUSED, "batch_not_found", "already_terminal", "unavailable"),
        ),
        202,
        scope="predict",
    ),
    _get("/v1/models", models.list_models, "List models", "unavailable"),
    _get("/v1/models/{model}", models.read_model, "Read a model", "model_not_found", "unavailable"),
    _get("/v1/models/{model}/versions", models.list_versions, "List versions", "model_not_found", "unavailable"),
    _get("/v1/models/{model}/queue", models.read_queue, "The backlog of a model", "model_not_found", "unavailable"),
    _open("/health", health.health, "The process answers"),
    _open("/ready", health.ready, "Submissions are accepted", "unavailable"),
    _open("/problems/{code}", health.problem, "What a problem's code means", "not_found"),
]  # fmt: skip


def _control(method: str, path: str, function: EndpointFunction) -> Endpoint:
    """For operators, of all tenants' business; docs/operations.md lists them."""
    return Endpoint(method, path, function, documented=False, scope="admin")


CONTROL = [
    Endpoint("GET", "/metrics", scrape.metrics, documented=False, scope="read"),
    Endpoint("GET", "/ui", page.page, documented=False, scope=None),
    Endpoint("GET", "/ui/page.css", page.style, documented=False, scope=None),
    Endpoint("GET", "/ui/page.js", page.script, documented=False, scope=None),
    Endpoint("GET", "/ui/elements.js", page.elements, documented=False, scope=None),
    _control("GET", "/ui/events", page.events),
    _control("POST", "/v1/keys", keys.create_key),
    _control("GET", "/v1/keys", keys.list_keys),
    _control("DELETE", "/v1/keys/{id}", keys.revoke_key),
    _control("GET", "/v1/models", models.list_models),
    _control("GET", "/v1/models/{model}", models.read_model),
    _control("GET", "/v1/models/{model}/versions", models.list_versions),
    _control("POST", "/v1/models/{model}/versions/{version}/load", loading.load),
    _control("POST", "/v1/models/{model}/versions/{version}/unload", loading.unload),
    _control("POST", "/v1/models/{model}/versions/{version}/reset", loading.reset),
    _control("PUT", "/v1/models/{model}/aliases/{alias}", aliases.put_alias),
    _control("DELETE", "/v1/models/{model}/aliases/{alias}", aliases.delete_alias),
    _control("GET", "/v1/models/{model}/traffic", routing.read_traffic),
    _control("PUT", "/v1/models/{model}/traffic", routing.put_traffic),
    _control("GET", "/v1/models/{model}/queue", models.read_queue),
    _control("POST", "/v1/models/{model}/queue/pause", queues.pause),
    _control("POST", "/v1/models/{model}/queue/resume", queues.resume),
    _control("POST", "/v1/models/{model}/queue/purge", queues.purge),
    _control("GET", "/v1/models/{model}/versions/{version}/shadows", comparisons.list_shadows),
    _control("POST", "/v1/predictions/retry", redrive.retry_all),
    _control("POST", "/v1/predictions/{id}/retry", redrive.retry_one),
    _control("GET", "/v1/devices", devices.list_devices),
]

#: What the framework serves itself on the data plane, and needs no key.
_DOCS = ["/docs", "/openapi.json", "/static-offline-docs/{file}"]


async def _on_error(request: Request, error: Exception) -> Response:
    return _response(problems.answer(error, path=request.scope["path"], request_id=request.scope[hot.REQUEST_ID]))


async def _on_http_error(request: Request, error: Exception) -> Response:
    """The framework's own: 404, and 405, whose Allow it gathers over all routes of the path."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        routes = [route for route in request.app.routes if isinstance(route, Route)]
        matching = [route for route in routes if route.path_regex.match(request.scope["path"])]
        methods = {method for route in matching for method in route.methods or ()}
        error = HTTPException(405, headers={"Allow": problems.allow(methods)})
    return await _on_error(request, error)


async def _on_disconnect(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # nobody reads it


HANDLERS: dict[int | type[Exception], Callable[[Request, Any], Coroutine[Any, Any, Response]]] = {
    HTTPException: _on_http_error,
    Disconnected: _on_disconnect,
    Exception: _on_error,
}


def _response(answer: Answer) -> Response:
    response = Response(status_code=answer.status)
    response.body = answer.body
    response.raw_headers = [*answer.headers]
    if answer.status not in NO_BODY and all(name != b"content-length" for name, _ in answer.headers):
        response.raw_headers.append((b"content-length", b"%d" % len(answer.body)))
    return response


class _StreamingResponse(Response):
    """Ends as soon as the client hangs up, whatever is being waited for then."""

    def __init__(self, streamed: Streamed) -> None:
        super().__init__(status_code=streamed.status)
        self.raw_headers = [*streamed.headers]
        self._write = streamed.write

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def write(piece: bytes) -> None:
            await send({"type": "http.response.body", "body": piece, "more_body": True})

        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        writing = asyncio.ensure_future(self._write(write))
        hung_up = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait((writing, hung_up), return_when=asyncio.FIRST_COMPLETED)
            if writing.done():
                writing.result()
                await send({"type": "http.response.body", "body": b""})
        finally:
            writing.cancel()
            hung_up.cancel()
            await asyncio.gather(writing, hung_up, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class _Name(Convertor[str]):
    """A segment without `:`, which separates a verb: GET of `/v1/models/x:predict` is 405, not a model of that name."""

    regex = "[^/:]+"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("name", _Name())


def _route(service: Service, endpoint: Endpoint) -> APIRoute:
    async def respond(request: Request) -> Response:
        scope = request.scope
        caller = scope.get(hot.CALLER, NOBODY)
        caller.must(endpoint.scope)
        call = Call(
            scope,
            request.receive,
            request.path_params,
            scope[hot.REQUEST_ID],
            headers=scope[hot.HEADERS],
            tenant=caller.tenant,
            key=caller.key,
        )
        answer = await endpoint.function(service, call)
        if isinstance(answer, Answer):
            return _response(answer)
        if scope[hot.HEAD]:
            return _response(Answer(200, b"", answer.headers))
        return _StreamingResponse(answer)

    return APIRoute(
        re.sub(r"{(\w+)}", r"{\1:name}", endpoint.path),
        respond,
        methods=[endpoint.method],
        name=f"{endpoint.function.__name__} {endpoint.path}",
        operation_id=_operation_id(endpoint),
        status_code=endpoint.status,
        openapi_extra={**endpoint.operation, **({"security": [{"key": []}]} if endpoint.scope else {})},
        include_in_schema=endpoint.documented,
    )


def _operation_id(endpoint: Endpoint) -> str:
    by = [piece for piece in ("version", "alias") if f"{{{piece}}}" in endpoint.path]
    return "_".join([endpoint.function.__name__, *by])


def data_app(service: Service) -> hot.Front:
    """What listens on the data port. Its lifespan starts and stops the service."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> Any:
        await service.start()
        try:
            yield
        finally:
            await service.stop()

    app = FastAPIOffline(
        title="Headway",
        version=headway.__version__,
        description="A durable queue for model predictions that micro-batches.",
        docs_url="/docs",
        redoc_url=None,
        openapi_url="/openapi.json",
        redirect_slashes=False,
        routes=[_route(service, endpoint) for endpoint in DATA],
        exception_handlers=HANDLERS,
        lifespan=lifespan,
    )
    base = app.openapi
    app.openapi = lambda: openapi.document(base, service.registry.views)  # type: ignore[method-assign]
    paths = [endpoint.path for endpoint in DATA if endpoint.scope is None] + _DOCS
    sites = _sites(service, service.settings.cors_origins)
    return hot.Front(service, app, HOT, sites=sites, open_paths=paths)


def control_app(service: Service) -> hot.Front:
    """What listens on the control port."""
    app = FastAPI(
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        routes=[_route(service, endpoint) for endpoint in CONTROL],
        exception_handlers=HANDLERS,
    )
    paths = [endpoint.path for endpoint in CONTROL if endpoint.scope is None]
    return hot.Front(service, app, [], sites=_sites(service, ()), open_paths=paths)


def _sites(service: Service, origins: Sequence[str]) -> Sites:
    settings = service.settings
    hosts = [settings.host, *settings.allowed_hosts]
    return Sites(hosts=hosts, origins=origins, public_url=settings.public_url)
