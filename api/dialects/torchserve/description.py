"""What `OPTIONS` of each port answers: its routes, as OpenAPI 3.0.1."""

from typing import Any

from headway import __version__

_ANY = {"*/*": {"schema": {"type": "string", "format": "binary"}}}
_ERROR = {
    "description": "Why not.",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["code", "type", "message"],
                "properties": {
                    "code": {"type": "integer"},
                    "type": {"type": "string"},
                    "message": {"type": "string"},
                },
            }
        }
    },
}


def _operation(summary: str, *parameters: str, body: bool = False, query: tuple[str, ...] = ()) -> dict[str, Any]:
    said = [{"in": "path", "name": name, "required": True, "schema": {"type": "string"}} for name in parameters] + [
        {"in": "query", "name": name, "required": False, "schema": {"type": "string"}} for name in query
    ]
    operation: dict[str, Any] = {
        "description": summary,
        "parameters": said,
        "responses": {"200": {"description": "Done."}, "default": _ERROR},
    }
    if body:
        operation["requestBody"] = {"content": _ANY}
        operation["responses"]["200"] = {"description": "What the handler has answered.", "content": _ANY}
    return operation


def _document(title: str, paths: dict[str, Any]) -> dict[str, Any]:
    return {"openapi": "3.0.1", "info": {"title": title, "version": __version__}, "paths": paths}


def inference() -> dict[str, Any]:
    model, version = "{model_name}", "{model_version}"
    paths: dict[str, Any] = {
        "/": {"options": _operation("This description.")},
        "/ping": {"get": _operation("Whether the server is well.")},
        "/invocations": {
            "post": _operation("A prediction by the model of a parameter.", body=True, query=("model_name",))
        },
    }
    for prefix, what in (("predictions", "A prediction"), ("explanations", "An explanation")):
        paths[f"/{prefix}/{model}"] = {"post": _operation(f"{what} by the default version.", "model_name", body=True)}
        paths[f"/{prefix}/{model}/{version}"] = {
            "post": _operation(f"{what} by one version.", "model_name", "model_version", body=True)
        }
    return _document("TorchServe's inference API, served by Headway", paths)


def of_model(name: str) -> dict[str, Any]:
    operation = _operation(f"A prediction by {name}.", body=True)
    return _document(f"RESTful API for: {name}", {f"/predictions/{name}": {"post": operation}})


REGISTER = (
    "url", "model_name", "handler", "runtime", "batch_size", "max_batch_delay", "initial_workers", "synchronous",
    "response_timeout", "startup_timeout",
)  # fmt: skip
SCALE = ("min_worker", "max_worker", "number_gpu", "synchronous", "timeout")


def management() -> dict[str, Any]:
    one = {
        "get": _operation("The model's default version.", "model_name", query=("customized",)),
        "put": _operation("Scale its workers.", "model_name", query=SCALE),
        "delete": _operation("Unregister it.", "model_name"),
    }
    version = {
        "get": _operation("A version, or `all` of them.", "model_name", "model_version", query=("customized",)),
        "put": _operation("Scale its workers.", "model_name", "model_version", query=SCALE),
        "delete": _operation("Unregister it.", "model_name", "model_version"),
    }
    paths = {
        "/": {"options": _operation("This description.")},
        "/models": {
            "get": _operation("The models.", query=("limit", "next_page_token")),
            "post": _operation("Register an archive of the model store.", query=REGISTER),
        },
        "/models/{model_name}": one,
        "/models/{model_name}/{model_version}": version,
        "/models/{model_name}/{model_version}/set-default": {
            "put": _operation("Make it the default version.", "model_name", "model_version")
        },
    }
    return _document("TorchServe's management API, served by Headway", paths)
