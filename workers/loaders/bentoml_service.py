"""`service.py` with a class of @bentoml.service: its APIs, called as BentoML calls them. Bentoml itself is not needed.

One prediction is one request. As JSON it is `{API: its arguments}`; `headway.envelopes.REQUEST` is a request with its
route, its headers and a body of any type. An answer is JSON, text or bytes; with a status or headers that the method
has set, or a file, it is `headway.envelopes.RESPONSE`. Why a request fails is told as BentoML tells it, JSON behind
its status (`headway.envelopes.refusal`).

Requests of a batchable API are joined along its batch dimension; those of an `async` one run side by side.
"""

import asyncio
import importlib
import inspect
import itertools
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

from batching.outcomes import invalid
from headway import bentoml, envelopes
from headway.bentoml import configuration
from headway.bentoml import service as reading
from headway.errors import ItemFailed
from headway.manifest import Graph, Manifest, Tensor
from headway.model import Context, InvalidInput, Item
from workers.loaders import Unloadable
from workers.loaders.bentoml_sdk import descriptors, exceptions, services, stored
from workers.loaders.bentoml_sdk.batches import cut, packed, size_of, together
from workers.loaders.bentoml_sdk.methods import Method
from workers.loaders.bentoml_sdk.replies import emitted, joined, reply, told
from workers.loaders.bentoml_sdk.requests import FORMS, Request, fields_of, named_of, only, positional
from workers.loaders.python import read_sources_only

logger = logging.getLogger(__name__)

_COMPAT = Path(__file__).with_name("bentoml_compat")


class ServiceModel:
    """An instance of the service in its process."""

    framework = "bentoml.service"

    def __init__(
        self, service: services.Service, instance: Any, timeout_s: float, loop: asyncio.AbstractEventLoop
    ) -> None:
        """`loop`: that the instance was begun in."""
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        routes = [_route(method) for method in service.apis.values()]
        said = bentoml.Routes(name=service.name, routes=routes, timeout_s=timeout_s)
        self.said = {"bentoml": msgspec.to_builtins(said)}
        self._apis = service.apis
        self._by_route = {method.route: method for method in service.apis.values()}
        self._asked = 0  # inputs of the call
        self._calls = {name: method.bound(instance) for name, method in service.apis.items()}
        self._loop = loop

    def predict(self, inputs: list[Any], context: Context) -> object:
        outputs: list[Any] = [None] * len(inputs)
        with tempfile.TemporaryDirectory(prefix="headway-bentoml-") as folder:
            descriptors.folder.name = folder
            requests: dict[int, Request] = {}
            self._asked = len(inputs)
            for index, (value, item) in enumerate(zip(inputs, context.items, strict=True)):
                try:
                    requests[index] = self._request(value, item)
                except Exception as error:
                    outputs[index] = told(error)
            for index, output in self._answers(requests):
                outputs[index] = told(output) if isinstance(output, Exception) else output
        if len(outputs) == 1 and isinstance(outputs[0], Exception) and not isinstance(outputs[0], ItemFailed):
            raise outputs[0]  # whoever called looks whether it is the device's fault
        return outputs

    # ── what was asked

    def _request(self, value: Any, item: Item) -> Request:
        """Raises whatever parsing raises."""
        if item.content_type is None:
            if not isinstance(value, dict) or len(value) != 1 or next(iter(value)) not in self._apis:
                raise InvalidInput(f"an input is an object with one of {', '.join(self._apis)}, and its arguments")
            ((name, given),) = value.items()
            method = self._apis[name]
            arguments = method.input.of_json(msgspec.json.encode(given))
            return Request(item, method, services.Context(item.id, {}), arguments)
        if item.content_type != envelopes.REQUEST:
            raise InvalidInput(f"the input is {item.content_type}, and a service takes JSON")
        asked = envelopes.unpack_request(value)
        found = self._by_route.get(urllib.parse.unquote(asked.target))
        if found is None:
            raise exceptions.NotFound("Not Found")
        content_type = asked.headers.get("content-type", "")
        essence = content_type.partition(";")[0].strip().lower()
        if essence in FORMS:
            arguments = found.input.of_form(fields_of(essence, content_type, asked.body))
        else:
            arguments = found.input.of_json(asked.body)
        return Request(item, found, services.Context(item.id, asked.headers), arguments)

    # ── what is answered

    def _answers(self, requests: Mapping[int, Request]) -> Iterator[tuple[int, Any]]:
        alone = {index: one for index, one in requests.items() if not one.method.batchable}
        asynchronous = [index for index, one in alone.items() if one.method.is_async]
        yield from zip(asynchronous, self._side_by_side([alone[index] for index in asynchronous]), strict=True)
        for index, one in alone.items():
            if not one.method.is_async:
                yield index, self._try(one)
        names = dict.fromkeys(one.method.name for one in requests.values() if one.method.batchable)
        for name in names:
            yield from self._batched({index: one for index, one in requests.items() if one.method.name == name})

    def _side_by_side(self, requests: Sequence[Request]) -> list[Any]:
        async def one(request: Request) -> Any:
            try:
                answer = self._calls[request.method.name](*positional(request), **named_of(request))
                if request.method.is_stream:
                    return reply(request, joined([emitted(request, part) async for part in answer]))
                return reply(request, await answer)
            except Exception as error:
                return error

        async def every() -> list[Any]:
            return await asyncio.gather(*map(one, requests))

        return self._loop.run_until_complete(every()) if requests else []

    def _try(self, request: Request) -> Any:
        try:
            return self._called(request)
        except Exception as error:
            return error

    def _called(self, request: Request) -> Any:
        call = self._calls[request.method.name]
        answer = call(*positional(request), **named_of(request))
        if request.method.is_stream:
            answer = joined([emitted(request, part) for part in answer])
        return reply(request, answer)

    def _batched(self, requests: Mapping[int, Request]) -> Iterator[tuple[int, Any]]:
        """Of one API."""
        sizes: dict[int, int] = {}
        for index, request in requests.items():
            try:
                sizes[index] = size_of(only(request), request.method.batch_dim[0])
            except Exception as error:
                yield index, error
        for group in packed(sizes, requests):
            members = [requests[index] for index in group]
            try:
                answers = self._joined_call(members, [sizes[index] for index in group])
            except Exception as error:
                if 1 < len(members) == len(requests) == self._asked:
                    raise  # one of several may be guilty: they are called again, in parts
                answers = [error] if len(members) == 1 else [self._alone(one) for one in members]
            for index, request, answer in zip(group, members, answers, strict=True):
                try:
                    yield index, answer if isinstance(answer, Exception) else reply(request, answer)
                except Exception as error:
                    yield index, error

    def _alone(self, request: Request) -> Any:
        try:
            (answer,) = self._joined_call([request], [size_of(only(request), request.method.batch_dim[0])])
        except Exception as error:
            return error
        return answer

    def _joined_call(self, requests: Sequence[Request], sizes: Sequence[int]) -> list[Any]:
        """Of requests that fit into one call; the parts of its answer."""
        method = requests[0].method
        into, out = method.batch_dim
        batch = together([only(request) for request in requests], into)
        name = next((name for name in requests[0].arguments if name), None)
        given = {} if method.context is None else {method.context: requests[0].context}
        call = self._calls[method.name]
        answer = call(batch, **given) if name is None else call(**{name: batch}, **given)
        if inspect.isawaitable(answer):
            answer = self._loop.run_until_complete(_awaited(answer))
        if len(requests) == 1:
            return [answer]
        if size_of(answer, out) != sum(sizes):
            raise invalid(f"{method.name} answered {size_of(answer, out)} rows for {sum(sizes)}")
        ends = list(itertools.accumulate(sizes))
        return [cut(answer, end - size, end, out) for end, size in zip(ends, sizes, strict=True)]


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
    loop = asyncio.new_event_loop()
    try:
        service = _service(importlib.import_module(entry.module), entry.attribute)
        instance = service()
        for name in dir(service.inner):
            if getattr(getattr(service.inner, name), "__bentoml_startup_hook__", False):
                begun = getattr(instance, name)()
                if inspect.isawaitable(begun):
                    loop.run_until_complete(_awaited(begun))
    except exceptions.Unsupported as error:
        raise Unloadable(str(error)) from error
    except ModuleNotFoundError as error:
        raise Unloadable(f"the service needs {error.name}, which is not installed where Headway is") from error
    if not service.apis:
        raise Unloadable(f"{service.name} has no method of @bentoml.api or @bentoml.task")
    configured = configuration.of_service(context.path, service.name).traffic.timeout
    return ServiceModel(service, instance, configured or service.timeout_s or bentoml.TIMEOUT_S, loop)


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
