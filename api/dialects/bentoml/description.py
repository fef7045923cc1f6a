"""What clients read before they call: /schema.json, and /docs.json for people's tools."""

from typing import Any

from api.answers import Answer, json_answer
from api.dialects.bentoml.routes import VERBS, Found, Table, table
from api.exchange import Call
from api.service import Service
from headway import __version__

_NAME = "headway"


async def schema(service: Service, call: Call) -> Answer:
    """Of one service with its own name; of whatever else there is, with ours."""
    there = table(service)
    routes = [_route(one) for one in there.listed.values()]
    paths = {route["route"]: {"mounted": False} for route in routes}
    return _plain({"name": _name(there), "type": "service", "routes": routes, "paths": paths})


def _name(there: Table) -> str:
    names = {found.service for found in there.listed.values()}
    return names.pop() if len(names) == 1 and "" not in names else _NAME


def _route(found: Found) -> dict[str, Any]:
    route = found.route
    return {
        "name": route.name,
        "route": route.route,
        "batchable": route.batchable,
        "input": route.input,
        "output": route.output,
        "is_task": route.is_task,
    }


async def openapi(service: Service, call: Call) -> Answer:
    there = table(service)
    paths: dict[str, Any] = {
        path: {"get": {"responses": {"200": {"description": text}}, "tags": ["Infrastructure"]}}
        for path, text in (
            ("/healthz", "It lives."),
            ("/livez", "It lives."),
            ("/readyz", "It can be called."),
            ("/metrics", "Prometheus' text."),
        )
    }
    for found in there.listed.values():
        paths |= _paths(found, _name(there))
    info = {"title": _name(there), "version": __version__, "description": "Served by Headway."}
    return _plain({"openapi": "3.0.2", "info": info, "paths": paths})


def _paths(found: Found, name: str) -> dict[str, Any]:
    route = found.route
    body = {key: value for key, value in route.input.items() if key != "root_input"}
    media = "multipart/form-data" if _has_file(body) else "application/json"
    responses = {
        "200": {"description": "The answer.", "content": {route.media_type: {"schema": _open(route.output)}}},
        "400": {"description": "The request does not fit."},
        "500": {"description": "The method failed."},
    }
    post: dict[str, Any] = {
        "operationId": f"{name}__{route.name}",
        "x-bentoml-name": route.name,
        "requestBody": {"content": {media: {"schema": _open(body)}}},
        "responses": responses,
        "tags": ["Service APIs"],
    }
    if route.doc:
        post["description"] = route.doc
    paths: dict[str, Any] = {route.route: {"post": post}}
    if route.is_task:
        task = {"name": "task_id", "in": "query", "required": True, "schema": {"type": "string"}}
        for verb, method in VERBS.items():
            operation: dict[str, Any] = {
                "operationId": f"{name}__{route.name}__{verb}",
                "responses": {"200": {"description": "Done."}, "400": {"description": "Not so."}},
                "tags": ["Service APIs"],
            }
            operation |= {"requestBody": post["requestBody"]} if verb == "submit" else {"parameters": [task]}
            paths[f"{route.route}/{verb}"] = {method.lower(): operation}
    return paths


def _has_file(schema: dict[str, Any]) -> bool:
    return any(one.get("type") == "file" for one in schema.get("properties", {}).values())


def _open(schema: Any) -> Any:
    """As OpenAPI has arrays and files."""
    if isinstance(schema, list):
        return [_open(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    opened = {key: _open(value) for key, value in schema.items()}
    match schema.get("type"):
        case "tensor":
            return {"type": "array", "items": {}} | ({"title": schema["title"]} if "title" in schema else {})
        case "file":
            return {"type": "string", "format": "binary"} | ({"title": schema["title"]} if "title" in schema else {})
    return opened


def _plain(value: Any) -> Answer:
    return json_answer(value)._replace(headers=((b"content-type", b"application/json"),))
