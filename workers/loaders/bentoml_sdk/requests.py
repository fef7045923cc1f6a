"""A request of a call: the method that it is for, and its arguments."""

import dataclasses
import inspect
import urllib.parse
from typing import Any

from headway.model import Item
from workers.loaders import forms
from workers.loaders.bentoml_sdk import descriptors, services
from workers.loaders.bentoml_sdk.methods import Method

FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")


@dataclasses.dataclass(slots=True)
class Request:
    """One of a call."""

    item: Item
    method: Method
    context: services.Context
    arguments: dict[str, Any]


def fields_of(essence: str, content_type: str, body: bytes) -> list[tuple[str, "descriptors.Upload | str"]]:
    """Raises InvalidInput."""
    if essence == FORMS[1]:
        pairs: list[tuple[str, descriptors.Upload | str]] = []
        pairs += urllib.parse.parse_qsl(body.decode("latin-1"), keep_blank_values=True)
        return pairs
    return [
        (
            part.name,
            part.body.decode("utf-8", "replace")
            if part.file is None
            else descriptors.Upload(part.file, part.type, part.body),
        )
        for part in forms.parts(content_type, body)
    ]


def positional(request: Request) -> list[Any]:
    """A root, and what `*args` takes."""
    if "" in request.arguments:
        return [request.arguments[""]]
    return list(request.arguments["args"]) if _has(request, inspect.Parameter.VAR_POSITIONAL) else []


def _has(request: Request, kind: Any) -> bool:
    return any(one.kind is kind for one in inspect.signature(request.method.func).parameters.values())


def named_of(request: Request) -> dict[str, Any]:
    """The arguments that have names, `**kwargs` spread, and the context."""
    named = {name: value for name, value in request.arguments.items() if name}
    if _has(request, inspect.Parameter.VAR_POSITIONAL):
        del named["args"]
    if _has(request, inspect.Parameter.VAR_KEYWORD):
        named |= named.pop("kwargs", {})
    if request.method.context is not None:
        named[request.method.context] = request.context
    return named


def only(request: Request) -> Any:
    """The argument of a batchable API."""
    return next(iter(request.arguments.values()))
