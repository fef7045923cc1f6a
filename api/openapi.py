"""OpenAPI 3.1: what each operation takes and answers, with examples made of the models that are registered now.

Schemas come from the very structs that decode and encode; only what no struct stands for is written out here.
"""

import copy
import http
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import msgspec

from api.answers import NO_BODY
from api.events import OutputEvent, ProgressEvent, TransitionEvent
from api.problems import TABLE
from api.raw import KINDS
from api.registry import ModelView
from api.requests import BatchLine, CreateBody, PredictBody
from headway.batches import BatchBody, BatchResult
from headway.rendering import PredictionBody
from headway.signature import example

_BODIES = (
    CreateBody, PredictBody, PredictionBody, TransitionEvent, ProgressEvent, OutputEvent, BatchLine, BatchBody,
    BatchResult,
)  # fmt: skip

_REF = "#/components/schemas/{name}"

_PROBLEM_SCHEMA = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "instance", "code", "request_id"],
    "properties": {
        "type": {"type": "string", "description": "A path of this API that describes the code."},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
        "code": {"type": "string", "enum": sorted(TABLE)},
        "request_id": {"type": "string"},
        "errors": {"type": "array", "items": {"type": "object", "additionalProperties": {"type": "string"}}},
        "predictions": {"type": "array", "items": {"type": "object"}},
    },
}


def _list_of(name: str) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["object", "data", "has_more", "last_id"],
        "properties": {
            "object": {"const": "list"},
            "data": {"type": "array", "items": {"$ref": f"#/components/schemas/{name}"}},
            "has_more": {"type": "boolean"},
            "last_id": {"type": ["string", "null"], "description": "Give it as `after` for the next page."},
        },
    }


#: Where a prediction leads: operation → its id.
_LINKS = {
    operation: {"operationId": operation, "parameters": {"id": "$response.body#/id"}}
    for operation in ("read", "output", "events", "cancel", "retry", "delete", "list_deliveries")
}

_BATCH_LINKS = {
    operation: {"operationId": operation, "parameters": {"id": "$response.body#/id"}}
    for operation in ("read_batch", "cancel_batch")
}

_LINES = {
    "schema": {"type": "string", "description": "One JSON object a line: `BatchLine`."},
    "example": '{"custom_id": "a", "input": 1}\n{"custom_id": "b", "input": 2}\n',
}

_PARAMETER_WORDS = {
    "model": "The model's name.",
    "version": "A version, as a string.",
    "alias": "An alias of a version.",
    "id": "Its id.",
    "code": "A problem's code.",
}


def operation(
    summary: str,
    *,
    path: str,
    body: str | None = None,
    raw: bool = False,
    answers: str | None = None,
    headers: Iterable[str] = (),
    problems: Iterable[str] = (),
    query: Mapping[str, Mapping[str, Any]] | None = None,
    required: Collection[str] = (),
    file: Iterable[str] = (),
    statuses: Iterable[int] = (200,),
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """An operation for FastAPI's `openapi_extra`. `body` and `answers` name schemas, `query` has one a parameter.

    `required`: of the query's. `file`: media types of a body that is a file of lines. `raw`: the body may be the input
    as it is, with the other fields in the query. `statuses`: of its good answers.
    """
    names = re.findall(r"{(\w+)}", path)
    parameters: list[dict[str, Any]] = [
        {"name": n, "in": "path", "required": True, "schema": {"type": "string"}, "description": _PARAMETER_WORDS[n]}
        for n in names
    ]
    parameters += [_HEADERS[name] for name in headers]
    parameters += [
        {"name": name, "in": "query", "required": name in required, "schema": schema}
        for name, schema in (query or {}).items()
    ]
    made: dict[str, Any] = {"summary": summary, "responses": _problem_responses(problems)}
    if parameters:
        made["parameters"] = parameters
    if body is not None:
        made["requestBody"] = {"required": True, "content": {"application/json": {"schema": _ref(body)}}}
    if file:
        made["requestBody"] = {"required": True, "content": dict.fromkeys(file, _LINES)}
    if raw:
        made["parameters"] += _RAW_PARAMETERS
        made["requestBody"]["content"] |= {kind: {"schema": {"type": "string", "format": "binary"}} for kind in KINDS}
    content = {"application/json": {"schema": {"type": "object"} if answers is None else _ref(answers)}}
    for status in statuses:
        made["responses"][str(status)] = {"description": http.HTTPStatus(status).phrase} | (
            {} if status in NO_BODY else {"content": content}
        )
        if answers == "PredictionBody":
            made["responses"][str(status)]["links"] = _LINKS
        if answers == "BatchBody":
            made["responses"][str(status)]["links"] = _BATCH_LINKS
    return made | dict(more or {})


#: What the JSON body says beside its input, for bodies that are the input.
_RAW_PARAMETERS: list[dict[str, Any]] = [
    {
        "name": name,
        "in": "query",
        "required": False,
        "schema": schema,
        "description": "As in the JSON body, and with a body that is no JSON only.",
    }
    for name, schema in {
        "version": {"type": "string"},
        "alias": {"type": "string"},
        "priority": {"type": "integer", "minimum": 0, "maximum": 9},
        "max_attempts": {"type": "integer", "minimum": 1, "maximum": 100},
        "queue_timeout_seconds": {"type": "number", "exclusiveMinimum": 0},
        "execution_timeout_seconds": {"type": "number", "exclusiveMinimum": 0},
        "webhook": {"type": "string"},
        "webhook_events": {"type": "string", "pattern": "^(started|completed)(,(started|completed))?$"},
        "metadata": {"type": "string", "contentMediaType": "application/json"},
    }.items()
]


def output_operation(path: str, *, problems: Iterable[str]) -> dict[str, Any]:
    """The operation that answers an output as it is."""
    made = operation("The output itself", path=path, problems=problems)
    made["description"] = (
        "JSON, an array or bytes, whichever it is; `Accept` asks for it as another, where it can be turned into that."
    )
    binary = {"schema": {"type": "string", "format": "binary"}}
    content = {"application/json": {"schema": {}}, "application/x-npy": binary, "application/octet-stream": binary}
    made["responses"]["200"] = {"description": "The output.", "content": content}
    return made


_EXAMPLE_OF_EVENTS = """\
id: 0
event: transition
data: {"status":"queued","attempt":0,"at":"2026-01-01T12:00:00.000000Z"}

id: 1000000
event: transition
data: {"status":"in_progress","attempt":1,"at":"2026-01-01T12:00:01.000000Z"}

id: 1000001
event: progress
data: {"fraction":0.5,"message":"halfway","attempt":1,"at":"2026-01-01T12:00:02.000000Z"}

id: 1000002
event: output
data: {"output":"part of it","attempt":1,"at":"2026-01-01T12:00:02.500000Z"}

id: 2000000
event: transition
data: {"status":"succeeded","attempt":1,"at":"2026-01-01T12:00:03.000000Z","prediction":{}}

"""


#: event → what its data is.
_EVENTS = {"transition": "TransitionEvent", "progress": "ProgressEvent", "output": "OutputEvent"}


def _event(event: str, name: str) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["id", "event", "data"],
        "properties": {
            "id": {"type": "string", "pattern": "^[0-9]{1,15}$"},
            "event": {"const": event},
            "data": {"type": "string", "contentMediaType": "application/json", "contentSchema": _ref(name)},
        },
    }


def events_operation(path: str, *, problems: Iterable[str]) -> dict[str, Any]:
    """The operation that answers a stream of events."""
    made = operation("Follow a prediction", path=path, headers=["Last-Event-ID"], problems=problems)
    made["description"] = (
        "Server-sent events, each once and in order: `transition` with `TransitionEvent` as its data, `progress` with "
        "`ProgressEvent`, `output` with `OutputEvent`. Comments keep the connection alive. The stream ends after the "
        "transition to a status that is terminal, whose data has the `prediction`; if it ends earlier, come back with "
        "the last id in `Last-Event-ID`. What a model reports is kept for ten minutes, transitions as long as the "
        "prediction."
    )
    schema = {"oneOf": [_event(event, name) for event, name in _EVENTS.items()]}
    content = {"text/event-stream": {"schema": schema, "example": _EXAMPLE_OF_EVENTS}}
    made["responses"]["200"] = {"description": "Events.", "content": content}
    made["responses"]["204"] = {"description": "The prediction has ended, and all of its events have been seen."}
    return made


def results_operation(path: str, *, query: Mapping[str, Mapping[str, Any]], problems: Iterable[str]) -> dict[str, Any]:
    """The operation that answers a stream of lines."""
    made = operation("The results of a batch", path=path, query=query, problems=problems)
    made["description"] = (
        "One `BatchResult` a line, in the order of the file, as they become known; it ends after the last line of a "
        "batch that has ended. Empty lines keep the connection alive. If it breaks off, come back with the last line "
        "as `after`."
    )
    content = {
        "application/x-ndjson": {"schema": {"type": "string"}, "example": '{"line":1,"custom_id":"a","output":2}\n'}
    }
    made["responses"]["200"] = {"description": "Results.", "content": content}
    return made


_HEADERS: dict[str, dict[str, Any]] = {
    "Last-Event-ID": {
        "name": "Last-Event-ID",
        "in": "header",
        "required": False,
        "schema": {"type": "string", "pattern": "^[0-9]{1,15}$"},
        "description": "The id of the last event that was seen: only those after it are sent.",
    },
    "Prefer": {
        "name": "Prefer",
        "in": "header",
        "required": False,
        "schema": {"type": "string"},
        "description": "`wait=N`: answer once it has ended, or after N seconds (60 at most).",
        "example": "wait=30",
    },
    "Idempotency-Key": {
        "name": "Idempotency-Key",
        "in": "header",
        "required": False,
        "schema": {
            "type": "string",
            "pattern": r'^("[ !#-\[\]-~]{1,255}"|[!#-~]([ -~]{0,253}[!-~])?)$',
        },
        "description": "1 to 255 printable characters. The same key with the same body names the same prediction.",
    },
    "If-None-Match": {
        "name": "If-None-Match",
        "in": "header",
        "required": False,
        "schema": {"type": "string"},
        "description": "An ETag: 304 while nothing has changed. With `Prefer: wait`, waits for a change.",
    },
}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": _REF.format(name=name)}


def _problem_responses(codes: Iterable[str]) -> dict[str, Any]:
    by_status: dict[str, list[str]] = {}
    for code in codes:
        by_status.setdefault(str(TABLE[code][0]), []).append(code)
    return {
        status: {
            "description": ", ".join(same),
            "content": {"application/problem+json": {"schema": _ref("Problem")}},
        }
        for status, same in by_status.items()
    }


def document(base: Callable[[], dict[str, Any]], views: Mapping[str, ModelView]) -> dict[str, Any]:
    """The whole document. `base` is FastAPI's own, which it makes once; examples are of now."""
    made = copy.deepcopy(base())
    _, schemas = msgspec.json.schema_components(_BODIES, ref_template=_REF)
    made.setdefault("components", {}).setdefault("schemas", {}).update(
        schemas, Problem=_PROBLEM_SCHEMA, PredictionList=_list_of("PredictionBody"), BatchList=_list_of("BatchBody")
    )
    made["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    inputs = {
        name: example(view.versions[view.latest].manifest.inputs, view.versions[view.latest].manifest)
        for name, view in views.items()
    }
    inputs = {name: value for name, value in inputs.items() if value is not None}
    for path, operations in made["paths"].items():
        body = operations.get("post", {}).get("requestBody")
        if body is not None and "application/json" in body["content"] and inputs:
            wrap = _instances if path.endswith(":predict") else _input
            body["content"]["application/json"]["examples"] = {
                name: {"summary": f"for the model {name}", "value": wrap(value)} for name, value in inputs.items()
            }
    return made


def _input(value: Any) -> dict[str, Any]:
    return {"input": value}


def _instances(value: Any) -> dict[str, Any]:
    return {"instances": [value]}
