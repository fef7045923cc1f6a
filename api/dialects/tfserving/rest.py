"""TF Serving's REST port: predictions in rows or columns, status and metadata of models."""

import re
from typing import Any

from api.answers import Answer, Headers
from api.dialects import jobs
from api.dialects.front import Dialect, Route
from api.dialects.tfserving import documents, inference, models, replies, requests
from api.dialects.tfserving.errors import JSON, Code, Refused, answer, invalid
from api.dialects.tfserving.models import Asked, Found
from api.dialects.tfserving.signatures import CLASSIFY, REGRESS, signatures_of
from api.exchange import Call
from api.service import Service

#: In any case, as TF Serving's own.
_MODEL = r"(?i:/v1/models)/(?P<model>[^/:]+)"
_VERSION = r"(?:(?i:/versions)/(?P<version>\d+)|(?i:/labels)/(?P<label>[^/:]+))?"
_CORS: Headers = (
    (b"access-control-allow-methods", b"POST, GET"),
    (b"access-control-allow-headers", b"content-type"),
)


def front(service: Service) -> Dialect:
    def route(method: str, pattern: str, function: Any, name: str, scope: Any) -> Route:
        return Route((method,), re.compile(pattern), function, name, scope)

    routes = [
        route("POST", f"{_MODEL}{_VERSION}(?i::predict)", predict, "predict", "predict"),
        route("POST", f"{_MODEL}{_VERSION}(?i::classify)", classify, "classify", "predict"),
        route("POST", f"{_MODEL}{_VERSION}(?i::regress)", regress, "regress", "predict"),
        route("GET", f"{_MODEL}{_VERSION}(?i:/metadata)", metadata, "metadata", "read"),
        route("GET", f"{_MODEL}{_VERSION}", status, "status", "read"),
        route("OPTIONS", "/.*", preflight, "preflight", None),
    ]
    return Dialect(service, "tfserving", routes, refuse=answer, unknown=_unknown)


async def predict(service: Service, call: Call) -> Answer:
    service.submitter.check_room()
    found = await models.find(service, _asked(call))
    body = await call.body(service.settings.max_body_bytes)
    document = documents.parse(body)
    signature = models.signature_of(found, requests.signature_name(document))
    rows = requests.is_rows(document)
    if found.manifest.inputs:
        question = inference.of_tensors(found, signature, requests.read(document, signature.inputs).inputs)
    else:
        question = inference.of_values(found, _values(document, rows))
    if jobs.is_job(call):
        return await inference.submit(service, call, question, body)
    outputs = await inference.infer(service, call, question)
    return Answer(200, _written(found, outputs, rows=rows), JSON)


def _values(document: dict[str, Any], rows: bool) -> list[Any]:
    values = document["instances" if rows else "inputs"]
    if not isinstance(values, list):
        raise invalid("the model declares no inputs: it takes a list, each of whose values is an input")
    return values


def _written(found: Found, outputs: list[Any], *, rows: bool) -> bytes:
    if inference.is_json(found.manifest):
        return replies.values(outputs, rows=rows)
    shown = inference.arrays(found, outputs)
    return replies.rows(shown) if rows else replies.columns(shown)


async def classify(service: Service, call: Call) -> Answer:
    return await _of_examples(service, call, "classification", CLASSIFY)


async def regress(service: Service, call: Call) -> Answer:
    return await _of_examples(service, call, "regression", REGRESS)


async def _of_examples(service: Service, call: Call, kind: str, method: str) -> Answer:
    """What takes tf.Example needs TensorFlow's own parser, and is refused."""
    found = await models.find(service, _asked(call))
    document = documents.parse(await call.body(service.settings.max_body_bytes))
    raise no_examples(found, requests.signature_name(document), kind, method)


def no_examples(found: Found, name: str, kind: str, method: str) -> Refused:
    """Of Classify and Regress, by either protocol."""
    signature = signatures_of(found.manifest).get(name or "serving_default")
    if signature is None:
        return invalid(f"No signature was found with the name: {name or 'serving_default'}")
    if signature.method_name != method:
        return invalid(f"Expected {kind} signature method_name to be {method}. Was: {signature.method_name}")
    return Refused(Code.UNIMPLEMENTED, f"{method} takes tf.Example, which only TensorFlow itself reads")


async def metadata(service: Service, call: Call) -> Answer:
    await service.registry.refresh()
    return Answer(200, models.metadata_json(await models.find(service, _asked(call))), JSON)


async def status(service: Service, call: Call) -> Answer:
    return Answer(200, models.status_json(await models.statuses(service, _asked(call))), JSON)


async def preflight(service: Service, call: Call) -> Answer:
    """Of a page of another site, where the operator lets such in."""
    return Answer(200, b"", _CORS)


async def _unknown(service: Service, call: Call) -> Answer:
    if call.path.lower().startswith("/v1/"):
        raise invalid(f"Malformed request: {call.params['method']} {call.path}")
    raise Refused(Code.NOT_FOUND, "Not Found")


def _asked(call: Call) -> Asked:
    version = call.params.get("version")
    return Asked(call.params["model"], None if version is None else str(int(version[:19])), call.params.get("label"))
