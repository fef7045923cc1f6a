"""`service.py` with a class of @bentoml.service: its APIs, called as BentoML calls them. Bentoml itself is not needed.

One prediction is one request. As JSON it is `{API: its arguments}`; `headway.envelopes.REQUEST` is a request with its
route, its headers and a body of any type. An answer is JSON, text or bytes; with a status or headers that the method
has set, or a file, it is `headway.envelopes.RESPONSE`. Why a request fails is told as BentoML tells it, JSON behind
its status (`headway.envelopes.refusal`).

Requests of a batchable API are joined along its batch dimension; those of an `async` one run side by side.
"""

import asyncio
import dataclasses
import importlib
import inspect
import itertools
import json
import logging
import os
import sys
import tempfile
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy as np
import pydantic

from batching.outcomes import BYTES, Raw, encode, invalid
from headway import bentoml, envelopes
from headway.bentoml import configuration
from headway.bentoml import service as reading
from headway.errors import ItemCode, ItemFailed
from headway.manifest import Graph, Manifest, Tensor
from headway.model import Context, InvalidInput, Item
from workers.loaders import Unloadable, forms
from workers.loaders.bentoml_sdk import descriptors, exceptions, services, stored
from workers.loaders.bentoml_sdk.methods import Method
from workers.loaders.python import read_sources_only

logger = logging.getLogger(__name__)

_COMPAT = Path(__file__).with_name("bentoml_compat")
_FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")
_UNEXPECTED = "An unexpected error has occurred, please check the server log."
#: Characters of a piece that is told as text, and bytes of a longer one that are told at a time.
_MOST_TEXT = 16 * 1024
_MOST_PIECE = 128 * 1024
#: Bytes of what is told about a request that is not as it should be.
_MOST_TOLD = 8_000


@dataclasses.dataclass(slots=True)
class _Request:
    """One of a call: its arguments, or why it has none."""

    item: Item
    method: Method
    context: services.Context
    arguments: dict[str, Any]


class ServiceModel:
    """An instance of the service in its process."""

    framework = "bentoml.service"

    def __init__(self, service: services.Service, instance: Any, timeout_s: float) -> None:
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        routes = [_route(method) for method in service.apis.values()]
        said = bentoml.Routes(name=service.name, routes=routes, timeout_s=timeout_s)
        self.said = {"bentoml": msgspec.to_builtins(said)}
        self._apis = service.apis
        self._by_route = {method.route: method for method in service.apis.values()}
        self._calls = {name: method.bound(instance) for name, method in service.apis.items()}
        self._loop = asyncio.new_event_loop()

    def predict(self, inputs: list[Any], context: Context) -> object:
        outputs: list[Any] = [None] * len(inputs)
        with tempfile.TemporaryDirectory(prefix="headway-bentoml-") as folder:
            descriptors.folder.name = folder
            requests: dict[int, _Request] = {}
            for index, (value, item) in enumerate(zip(inputs, context.items, strict=True)):
                try:
                    requests[index] = self._request(value, item)
                except Exception as error:
                    outputs[index] = _told(error)
            for index, output in self._answers(requests):
                outputs[index] = _told(output) if isinstance(output, Exception) else output
        return outputs

    # ── what was asked

    def _request(self, value: Any, item: Item) -> _Request:
        """Raises whatever parsing raises."""
        if item.content_type is None:
            if not isinstance(value, dict) or len(value) != 1 or next(iter(value)) not in self._apis:
                raise InvalidInput(f"an input is an object with one of {', '.join(self._apis)}, and its arguments")
            ((name, given),) = value.items()
            method = self._apis[name]
            arguments = method.input.of_json(msgspec.json.encode(given))
            return _Request(item, method, services.Context(item.id, {}), arguments)
        if item.content_type != envelopes.REQUEST:
            raise InvalidInput(f"the input is {item.content_type}, and a service takes JSON")
        asked = envelopes.unpack_request(value)
        found = self._by_route.get(urllib.parse.unquote(asked.target))
        if found is None:
            raise exceptions.NotFound("Not Found")
        content_type = asked.headers.get("content-type", "")
        essence = content_type.partition(";")[0].strip().lower()
        if essence in _FORMS:
            arguments = found.input.of_form(_fields(essence, content_type, asked.body))
        else:
            arguments = found.input.of_json(asked.body)
        return _Request(item, found, services.Context(item.id, asked.headers), arguments)

    # ── what is answered

    def _answers(self, requests: Mapping[int, _Request]) -> Iterator[tuple[int, Any]]:
        alone = {index: one for index, one in requests.items() if not one.method.batchable}
        asynchronous = [index for index, one in alone.items() if one.method.is_async]
        yield from zip(asynchronous, self._side_by_side([alone[index] for index in asynchronous]), strict=True)
        for index, one in alone.items():
            if not one.method.is_async:
                yield index, self._try(one)
        names = dict.fromkeys(one.method.name for one in requests.values() if one.method.batchable)
        for name in names:
            yield from self._batched({index: one for index, one in requests.items() if one.method.name == name})

    def _side_by_side(self, requests: Sequence[_Request]) -> list[Any]:
        async def one(request: _Request) -> Any:
            try:
                answer = self._calls[request.method.name](*_positional(request), **_named(request))
                if request.method.is_stream:
                    return _reply(request, _joined([_emitted(request, part) async for part in answer]))
                return _reply(request, await answer)
            except Exception as error:
                return error

        async def every() -> list[Any]:
            return await asyncio.gather(*map(one, requests))

        return self._loop.run_until_complete(every()) if requests else []

    def _try(self, request: _Request) -> Any:
        try:
            return self._called(request)
        except Exception as error:
            return error

    def _called(self, request: _Request) -> Any:
        call = self._calls[request.method.name]
        answer = call(*_positional(request), **_named(request))
        if request.method.is_stream:
            answer = _joined([_emitted(request, part) for part in answer])
        return _reply(request, answer)

    def _batched(self, requests: Mapping[int, _Request]) -> Iterator[tuple[int, Any]]:
        """Of one API."""
        sizes: dict[int, int] = {}
        for index, request in requests.items():
            try:
                sizes[index] = _size(_only(request), request.method.batch_dim[0])
            except Exception as error:
                yield index, error
        for group in _packed(sizes, requests):
            members = [requests[index] for index in group]
            try:
                answers = self._joined_call(members, [sizes[index] for index in group])
            except Exception as error:
                # One of several may be guilty, and the others are not.
                answers = [error] if len(members) == 1 else [self._alone(one) for one in members]
            for index, request, answer in zip(group, members, answers, strict=True):
                try:
                    yield index, answer if isinstance(answer, Exception) else _reply(request, answer)
                except Exception as error:
                    yield index, error

    def _alone(self, request: _Request) -> Any:
        try:
            (answer,) = self._joined_call([request], [_size(_only(request), request.method.batch_dim[0])])
        except Exception as error:
            return error
        return answer

    def _joined_call(self, requests: Sequence[_Request], sizes: Sequence[int]) -> list[Any]:
        """Of requests that fit into one call; the parts of its answer."""
        method = requests[0].method
        into, out = method.batch_dim
        batch = _together([_only(request) for request in requests], into)
        name = next((name for name in requests[0].arguments if name), None)
        given = {} if method.context is None else {method.context: requests[0].context}
        call = self._calls[method.name]
        answer = call(batch, **given) if name is None else call(**{name: batch}, **given)
        if inspect.isawaitable(answer):
            answer = self._loop.run_until_complete(_awaited(answer))
        if len(requests) == 1:
            return [answer]
        if _size(answer, out) != sum(sizes):
            raise invalid(f"{method.name} answered {_size(answer, out)} rows for {sum(sizes)}")
        ends = list(itertools.accumulate(sizes))
        return [_cut(answer, end - size, end, out) for end, size in zip(ends, sizes, strict=True)]


async def _awaited(answer: Any) -> Any:
    return await answer


def load(manifest: Manifest, context: Context) -> ServiceModel:
    if manifest.graph != Graph():
        raise Unloadable("[graph] is for graphs: a service calls torch.compile and its like itself")
    entry = reading.entry_of(context.path)
    read_sources_only(context.path)
    os.chdir(entry.folder)
    sys.path.insert(0, str(entry.folder))
    stored.place.folders = {
        context.path / "models": manifest.artifact.trust,
        context.path.parent.parent: False,
    }
    for name in [name for name in sys.modules if name == "bentoml" or name.startswith("bentoml.")]:
        del sys.modules[name]
    sys.path.insert(1, str(_COMPAT))
    try:
        service = _service(importlib.import_module(entry.module), entry.attribute)
        instance = service()
        for name in dir(service.inner):
            if getattr(getattr(service.inner, name), "__bentoml_startup_hook__", False):
                begun = getattr(instance, name)()
                if inspect.isawaitable(begun):
                    asyncio.run(_awaited(begun))
    except exceptions.Unsupported as error:
        raise Unloadable(str(error)) from error
    except ModuleNotFoundError as error:
        raise Unloadable(f"the service needs {error.name}, which is not installed where Headway is") from error
    if not service.apis:
        raise Unloadable(f"{service.name} has no method of @bentoml.api or @bentoml.task")
    configured = configuration.of_service(context.path, service.name).traffic.timeout
    return ServiceModel(service, instance, configured or service.timeout_s or bentoml.TIMEOUT_S)


def _service(module: ModuleType, attribute: str | None) -> services.Service:
    found = {name: value for name, value in vars(module).items() if isinstance(value, services.Service)}
    if attribute is not None:
        if attribute not in found:
            raise Unloadable(
                f"{module.__name__} has no {attribute} of @bentoml.service, but {', '.join(found) or 'none'}"
            )
        return found[attribute]
    if len({id(one) for one in found.values()}) != 1:
        raise Unloadable(
            f"{module.__name__}.py should have one class of @bentoml.service, and has {', '.join(found) or 'none'}: "
            f'say which in bentofile.yaml, service: "{module.__name__}:NAME"'
        )
    return next(iter(found.values()))


def _route(method: Method) -> bentoml.Route:
    return bentoml.Route(
        name=method.name,
        route=method.route,
        input=method.input.schema,
        output=method.output.schema,
        batchable=method.batchable,
        is_task=method.is_task,
        is_async=method.is_async,
        doc=inspect.getdoc(method.func),
        media_type=method.output.media_type,
    )


# ── requests ──────────────────────────────────────────────────────────────────────────────────────────────────


def _fields(essence: str, content_type: str, body: bytes) -> list[tuple[str, "descriptors.Upload | str"]]:
    """Raises InvalidInput."""
    if essence == _FORMS[1]:
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


def _positional(request: _Request) -> list[Any]:
    """A root, and what `*args` takes."""
    if "" in request.arguments:
        return [request.arguments[""]]
    return list(request.arguments["args"]) if _has(request, inspect.Parameter.VAR_POSITIONAL) else []


def _has(request: _Request, kind: Any) -> bool:
    return any(one.kind is kind for one in inspect.signature(request.method.func).parameters.values())


def _named(request: _Request) -> dict[str, Any]:
    """The arguments that have names, `**kwargs` spread, and the context."""
    named = {name: value for name, value in request.arguments.items() if name}
    if _has(request, inspect.Parameter.VAR_POSITIONAL):
        del named["args"]
    if _has(request, inspect.Parameter.VAR_KEYWORD):
        named |= named.pop("kwargs", {})
    if request.method.context is not None:
        named[request.method.context] = request.context
    return named


def _only(request: _Request) -> Any:
    """The argument of a batchable API."""
    return next(iter(request.arguments.values()))


# ── batches ───────────────────────────────────────────────────────────────────────────────────────────────────


def _size(value: Any, dimension: int) -> int:
    if isinstance(value, list | tuple):
        return len(value)
    return int(value.shape[dimension])


def _packed(sizes: Mapping[int, int], requests: Mapping[int, _Request]) -> Iterator[list[int]]:
    """In their order, as many as fit into a call; a larger one goes alone, and so does what cannot be joined."""
    group: list[int] = []
    for index, size in sizes.items():
        most = requests[index].method.max_batch_size
        fits = group and sum(sizes[one] for one in group) + size <= most
        if group and not (fits and _alike(_only(requests[group[0]]), _only(requests[index]), requests[index])):
            yield group
            group = []
        group.append(index)
    if group:
        yield group


def _alike(left: Any, right: Any, request: _Request) -> bool:
    if type(left) is not type(right):
        return False
    if isinstance(left, list | tuple):
        return True
    into = request.method.batch_dim[0]
    shapes = [[length for at, length in enumerate(one.shape) if at != into] for one in (left, right)]
    return shapes[0] == shapes[1] and left.dtype == right.dtype


def _together(values: Sequence[Any], dimension: int) -> Any:
    first = values[0]
    if len(values) == 1:
        return first
    if isinstance(first, list | tuple):
        return list(itertools.chain.from_iterable(values))
    if isinstance(first, np.ndarray):
        return np.concatenate(values, axis=dimension)
    return sys.modules["torch"].cat(list(values), dim=dimension)


def _cut(answer: Any, start: int, end: int, dimension: int) -> Any:
    if isinstance(answer, list | tuple):
        return list(answer[start:end])
    return answer[(slice(None),) * dimension + (slice(start, end),)]


# ── replies ───────────────────────────────────────────────────────────────────────────────────────────────────


def _emitted(request: _Request, part: Any) -> str | bytes:
    """A piece, which whoever waits is sent at once. Raises ValidationError for what is not as annotated."""
    written = part if isinstance(part, str | bytes) else json.dumps(request.method.output.rendered(part))
    if isinstance(written, str) and len(written) <= _MOST_TEXT:
        request.item.emit(written)
        return written
    body = written if isinstance(written, bytes) else written.encode()
    for at in range(0, len(body), _MOST_PIECE):
        message = envelopes.Response(200, "", {}, body[at : at + _MOST_PIECE])
        request.item.emit(Raw(envelopes.RESPONSE, envelopes.pack_response(message)))
    return written


def _joined(parts: list[str | bytes]) -> str | bytes:
    """What a generator has yielded, one behind the other."""
    if all(isinstance(part, str) for part in parts):
        return "".join(map(str, parts))
    return b"".join(part if isinstance(part, bytes) else part.encode() for part in parts)


def _reply(request: _Request, answer: Any) -> Any:
    """Raises ValidationError for what is not as annotated, and what writing raises."""
    output, asked = request.method.output, request.context.response
    rendered = answer if request.method.is_stream else output.rendered(answer)
    headers: dict[str, str] = {}
    if isinstance(rendered, os.PathLike):
        rendered, headers = output.file(Path(rendered))
    if not headers and asked.status_code == 200 and not asked.headers and _is_storable(rendered, output.schema):
        return Raw(BYTES, rendered) if isinstance(rendered, bytes) else rendered
    if isinstance(rendered, bytes):
        body = rendered
    else:
        body = rendered.encode() if isinstance(rendered, str) else json.dumps(rendered).encode()
    headers = {"content-type": output.media_type, **headers, **{str(k): str(v) for k, v in asked.headers.items()}}
    return Raw(envelopes.RESPONSE, envelopes.pack_response(envelopes.Response(asked.status_code, "", headers, body)))


def _is_storable(rendered: Any, schema: Mapping[str, Any]) -> bool:
    """Whether JSON holds it: what is infinite goes out as Python writes it. In arrays pydantic has made it null."""
    if isinstance(rendered, str | bytes) or schema.get("type") == "tensor":
        return True
    try:
        encode(rendered)
    except ValueError:
        return False
    return True


def _told(error: Exception) -> Exception:
    """In the words that BentoML's clients match on."""
    if isinstance(error, pydantic.ValidationError):
        return _refused(400, _validation(error))
    if isinstance(error, exceptions.BentoMLException):
        status = int(error.error_code)
        if status in (401, 403):
            return _refused(status, {"error": "Authorization error"})
        if status < 500:
            return _refused(status, [{"error": str(error)}])
        if status > 500:
            logger.warning("a method raised %s: %s", type(error).__name__, error)
            return _refused(
                status, {"error": _UNEXPECTED}, ItemCode.UNAVAILABLE if status == 503 else ItemCode.MODEL_ERROR
            )
    return error


def _validation(error: pydantic.ValidationError) -> dict[str, Any]:
    """As much of it as may be told."""
    said: dict[str, Any] = {"error": f"{error.error_count()} validation error for {error.title}"}
    detail: list[Any] = []
    for one in error.errors(include_context=False, include_input=False):
        if len(json.dumps([*detail, one])) > _MOST_TOLD:
            break
        detail.append(one)
    return {**said, "detail": detail}


def _refused(status: int, said: Any, code: ItemCode = ItemCode.INVALID_INPUT) -> ItemFailed:
    text = json.dumps(said, ensure_ascii=False)
    if len(text) > 2 * _MOST_TOLD:
        text = json.dumps({"error": "what was refused is too long to be told"})
    return ItemFailed(code, envelopes.refusal(status, text), whole=True)
