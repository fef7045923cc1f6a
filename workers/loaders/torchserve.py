"""An archive of TorchServe's, unpacked (`headway.mar`): its handler is called as TorchServe calls it.

One prediction is one request. A JSON input is a request with that body; bytes are a request of their media type;
`headway.envelopes.REQUEST` is a request with its headers. A reply is JSON, text or bytes; one that the handler gave a
type goes out as that, one with a status or headers as `headway.envelopes.RESPONSE`. The handler's elements:

    JSON                      {"body": what it says}; {"body": bytearray} where it is none
    text/*                    {"body": str}
    multipart, urlencoded     {field: bytearray, …}
    anything else             {"body": bytearray}

The handler's code stands in the operator's own folder, so it is run; weights that are pickles are read as weights only,
unless model.toml trusts them.
"""

import importlib
import importlib.util
import io
import json
import logging
import os
import pickle
import sys
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from batching.outcomes import BYTES, Raw, encode, invalid
from headway import envelopes, mar, npy
from headway.manifest import Graph, Manifest, Tensor
from headway.model import Context, InvalidInput, Item
from workers.loaders import Unloadable, forms
from workers.loaders.python import read_sources_only
from workers.loaders.ts_compat import ts
from workers.loaders.ts_compat.ts.context import Context as HandlerContext
from workers.loaders.ts_compat.ts.context import RequestProcessor
from workers.loaders.ts_compat.ts.metrics.metrics_store import MetricsStore

logger = logging.getLogger(__name__)

#: Handlers that TorchServe brings, which are not ours, and what they need.
_BUILT_IN = {
    "image_classifier": "torchvision",
    "image_segmenter": "torchvision",
    "object_detector": "torchvision",
    "text_classifier": "torchtext",
}
_COMPAT = Path(__file__).with_name("ts_compat")

JSON = "application/json"

#: Bytes of a part of a reply that is told as text, and of a longer one that are told at a time: a report is bounded.
_MOST_TEXT = 32 * 1024
_MOST_PART = 128 * 1024

#: What a handler is: `handle(data, context)`.
Entry = Callable[[Any, Any], Any]


class _Context(HandlerContext):
    """With what the loader and the handlers' base need beside."""

    trusted = False  # pickles may be read
    items: Sequence[Item] = ()

    def begin(self, requests: Sequence["_Request"], items: Sequence[Item]) -> None:
        self.items = items
        self.request_ids = {index: item.id for index, item in enumerate(items)}
        self.request_processor = [RequestProcessor(request.headers) for request in requests]
        self.said: list[list[bytes]] = [[] for _ in items]
        if self.metrics is not None:
            self.metrics.request_ids = self.request_ids

    def emit(self, parts: Sequence[Any]) -> None:
        """A part of each request's reply; with the first goes what the handler has set of status and headers."""
        for index, (item, said, part) in enumerate(zip(self.items, self.said, parts, strict=False)):
            body, _ = _body(part)
            status, phrase = self.get_response_status(index)
            headers = self.get_response_headers(index)
            if not said and (status != 200 or headers):
                item.emit(_message(_response(status, phrase, headers, b"")))
            said.append(body)
            if isinstance(part, str | bytes | bytearray) and len(body) <= _MOST_TEXT and _is_text(body):
                item.emit(body.decode())
                continue
            for at in range(0, len(body), _MOST_PART):  # as it is written: read back from JSON it may be another
                item.emit(_message(envelopes.Response(200, "", {}, body[at : at + _MOST_PART])))


class _Request:
    """One of a call."""

    __slots__ = ("element", "headers", "kind")

    def __init__(self, element: dict[str, Any], headers: Mapping[str, Any]) -> None:
        self.element = element
        self.headers = headers
        self.kind = next((kind for kind in ("describe", "explain") if headers.get(kind) == "True"), "predict")


class TorchServeModel:
    """A handler in its process."""

    framework = "torchserve"

    def __init__(self, entry: Entry, context: _Context, manifest: Manifest) -> None:
        self.inputs: dict[str, Tensor] = manifest.inputs
        self.outputs: dict[str, Tensor] = manifest.outputs
        self._entry = entry
        self._context = context

    def predict(self, inputs: list[Any], context: Context) -> object:
        requests = [_request(value, item.content_type) for value, item in zip(inputs, context.items, strict=True)]
        kinds = {request.kind for request in requests}
        if len(kinds) == 1 and (len(requests) == 1 or "describe" not in kinds):
            return self._call(requests, context.items)
        # A handler looks at the first request to see what is asked of it: each call is of one kind.
        outputs: list[Any] = [None] * len(requests)
        for places in _apart(requests):
            answers = self._call([requests[place] for place in places], [context.items[place] for place in places])
            for place, answer in zip(places, answers, strict=True):
                outputs[place] = answer
        return outputs

    def _call(self, requests: list[_Request], items: Sequence[Item]) -> list[Any]:
        context = self._context
        context.begin(requests, items)
        try:
            answer = self._entry([request.element for request in requests], context)
        except Exception as error:
            raise _refusal(error) from error
        if not isinstance(answer, list):
            raise invalid(f"the handler returned {type(answer).__name__}, and should return a list")
        if len(answer) != len(requests):
            raise invalid(f"the handler returned {len(answer)} outputs for {len(requests)} requests")
        return [_reply_or_why(output, context, index) for index, output in enumerate(answer)]


def load(manifest: Manifest, context: Context) -> TorchServeModel:
    archive = mar.read(context.path)
    if manifest.graph != Graph():
        raise Unloadable("[graph] is for graphs: an archive's handler calls torch.compile and its like itself")
    if manifest.inputs or manifest.outputs:
        raise Unloadable("[inputs] and [outputs] are for arrays: an archive's handler takes requests as they come")
    read_sources_only(context.path)
    os.chdir(context.path)
    _provide_ts()
    told = _Context(
        archive.model.model_name or context.path.parent.name,
        str(context.path),
        archive.said,
        manifest.batching.max_batch_size,
        int(context.device.partition(":")[2] or 0) if context.device != "cpu" else None,
        ts.__version__,
        metrics=MetricsStore(archive.model.model_name),
        model_yaml_config=archive.config,
    )
    told.trusted = manifest.artifact.trust
    try:
        module, function = _handler(archive)
        entry = _entered(module, function, told)
    except pickle.UnpicklingError as error:
        raise Unloadable(
            f"its weights are a pickle of more than weights ({' '.join(str(error).split())[:200]}): if you trust "
            "whoever made it, say [artifact] trust = true in model.toml"
        ) from error
    except ModuleNotFoundError as error:
        hint = f"; {archive.model.requirements_file} of the archive lists what it needs"
        raise Unloadable(
            f"the handler needs {error.name}, which is not installed{hint if archive.model.requirements_file else ''}"
        ) from error
    return TorchServeModel(entry, told, manifest)


def _provide_ts() -> None:
    """What handlers import: TorchServe's own package where it is installed, else ours."""
    try:
        found = importlib.util.find_spec("ts.torch_handler.base_handler")
    except (ImportError, ValueError):
        found = None
    if found is None:
        for name in [name for name in sys.modules if name == "ts" or name.startswith("ts.")]:
            del sys.modules[name]  # another package of this name
        sys.path.insert(1, str(_COMPAT))


def _handler(archive: mar.Archive) -> tuple[ModuleType, str]:
    """The handler's module, and the name of the function that it may have."""
    name, _, function = archive.model.handler.partition(":")
    stem = name.removesuffix(".py").rpartition("/")[2]
    if not stem.isidentifier():
        raise Unloadable(f"the handler is {name[:80]!r}, and should be a Python file of the archive")
    folder = Path.cwd()
    if (folder / f"{stem}.py").is_file() or (folder / stem / "__init__.py").is_file():
        return importlib.import_module(stem), function or "handle"
    if (needs := _BUILT_IN.get(stem)) is not None or stem == "base_handler":
        try:
            return importlib.import_module(f"ts.torch_handler.{stem}"), function or "handle"
        except ImportError as error:
            ours = error.name == f"ts.torch_handler.{stem}"
            why = "torchserve is not installed" if ours else str(error)
            raise Unloadable(
                f"the handler {stem!r} is TorchServe's own, and needs torchserve and {needs}: {why}"
            ) from error
    known = ", ".join(("base_handler", *_BUILT_IN))
    raise Unloadable(f"there is no {stem}.py in the archive, and {stem!r} is none of TorchServe's handlers ({known})")


def _entered(module: ModuleType, function: str, context: _Context) -> Entry:
    """The handler, ready to be called."""
    if "send_intermediate_predict_response" in vars(module):  # TorchServe's own writes to a socket of its server
        module.send_intermediate_predict_response = _send_intermediate  # type: ignore[attr-defined]
    entry: Any = getattr(module, function, None)
    if callable(entry):
        entry(None, context)
        return entry  # type: ignore[no-any-return]
    classes = [cls for cls in vars(module).values() if isinstance(cls, type) and cls.__module__ == module.__name__]
    if len(classes) != 1:
        names = ", ".join(cls.__name__ for cls in classes) or "no class"
        raise Unloadable(f"the handler should have a function {function!r} or one class, and has {names}")
    service: Any = classes[0]()
    for method in ("initialize", "handle"):
        if not callable(getattr(service, method, None)):
            raise Unloadable(f"the handler's class {classes[0].__name__} has no method {method!r}")
    service.initialize(context)
    return service.handle  # type: ignore[no-any-return]


def _send_intermediate(ret: Sequence[Any], req_id_map: Any, message: str, code: int, context: _Context) -> None:
    context.emit(ret)


def _apart(requests: Sequence[_Request]) -> list[list[int]]:
    """The places of requests of one kind; each that asks for a description for itself."""
    of_kind: dict[str, list[int]] = {}
    for place, request in enumerate(requests):
        of_kind.setdefault(f"describe {place}" if request.kind == "describe" else request.kind, []).append(place)
    return list(of_kind.values())


# ── requests ──────────────────────────────────────────────────────────────────────────────────────────────────


def _request(value: Any, content_type: str | None) -> _Request:
    """An input as the handler sees it. Raises InvalidInput."""
    if content_type is None:
        return _Request({"body": value}, {"explain": "False", "content-type": "application/json"})
    body = npy.dump(value) if isinstance(value, np.ndarray) else value
    headers: dict[str, Any] = {"explain": "False", "content-type": content_type}
    if content_type == envelopes.REQUEST:
        try:
            packed = envelopes.unpack_request(body)
        except ValueError as error:
            raise InvalidInput(f"the input is no {envelopes.REQUEST}: {error}") from error
        headers, body = {"explain": "False", **packed.headers}, packed.body
        content_type = headers.get("content-type", "")
    essence = content_type.partition(";")[0].strip().lower()
    if essence == "multipart/form-data":
        return _of_fields([(part.name, part.type, part.body) for part in forms.parts(content_type, body)], headers)
    if essence == "application/x-www-form-urlencoded":
        pairs = urllib.parse.parse_qsl(body.decode("latin-1"), keep_blank_values=True, encoding="latin-1")
        return _of_fields([(name, "", value.encode("latin-1")) for name, value in pairs], headers)
    return _Request({"body": _decoded(essence, body)}, headers)


def _of_fields(fields: Sequence[tuple[str, str, bytes]], headers: dict[str, Any]) -> _Request:
    """(name, media type, value) each; of two of one name the last counts."""
    element = {name: _decoded(essence, value) for name, essence, value in fields}
    return _Request(element, {name: {"content-type": essence} for name, essence, _ in fields} | headers)


def _decoded(essence: str, body: bytes) -> Any:
    """JSON and text where they are what they say; else the bytes, which handlers may write to."""
    try:
        if essence == "application/json":
            return json.loads(body.decode())
        if essence.startswith("text"):
            return body.decode()
    except (ValueError, RecursionError):
        pass
    return bytearray(body)


# ── replies ───────────────────────────────────────────────────────────────────────────────────────────────────


def _reply_or_why(output: Any, context: _Context, index: int) -> object:
    """An answer that cannot be sent fails its own request only."""
    try:
        return _reply(output, context, index)
    except Exception as error:
        return error


def _reply(output: Any, context: _Context, index: int) -> object:
    """What becomes of a handler's answer to one request."""
    status, phrase = context.get_response_status(index)
    headers = dict(context.get_response_headers(index))
    said = context.said[index]
    if status == 200 and not headers and not said and not _is_tensor(output):
        return (
            output if isinstance(output, str | bytes | bytearray) or _is_json(output) else Raw(JSON, _body(output)[0])
        )
    body, kind = _body(output)
    body = b"".join((*said, body))
    kinds = [name for name in headers if name.lower() == "content-type"]
    if status == 200 and len(headers) == len(kinds) and kinds:
        return Raw(str(headers[kinds[0]]), body)
    if status == 200 and not headers:
        return Raw(kind, body)
    return Raw(envelopes.RESPONSE, envelopes.pack_response(_response(status, phrase, headers, body)))


def _response(status: Any, phrase: Any, headers: Mapping[Any, Any], body: bytes) -> envelopes.Response:
    named = {str(name): str(value) for name, value in headers.items()}
    return envelopes.Response(int(status), str(phrase or ""), named, body)


def _message(response: envelopes.Response) -> Raw:
    return Raw(envelopes.RESPONSE, envelopes.pack_response(response))


def _is_text(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def _body(output: Any) -> tuple[bytes, str]:
    """A reply's body and media type, as TorchServe writes them. Raises what `invalid` makes."""
    if isinstance(output, bytes | bytearray):
        return bytes(output), BYTES
    if isinstance(output, str):
        return output.encode("utf-8", "replace"), "text/plain; charset=utf-8"
    if _is_tensor(output):
        stream = io.BytesIO()
        sys.modules["torch"].save(output, stream)
        return stream.getvalue(), BYTES
    try:
        return json.dumps(output, indent=2).encode(), JSON
    except (TypeError, ValueError, RecursionError) as error:
        raise invalid(f"Unsupported model output data type: {error}") from error


def _is_json(output: Any) -> bool:
    """Whether it is JSON as we have it, numbers of numpy included; NaN is not, though TorchServe sends it."""
    try:
        encode(output)
    except ValueError:
        return False
    return True


def _is_tensor(output: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(output, torch.Tensor)


class PredictionRefused(Exception):  # noqa: N818
    """A handler's PredictionException; its text is `envelopes.refusal`'s, which knows this class by name."""


def _refusal(error: Exception) -> Exception:
    """What is raised in the place of a handler's exception: the same, unless it has a status."""
    code = getattr(error, "error_code", None)
    if type(error).__name__ == "PredictionException" and isinstance(code, int) and 100 <= code <= 999:
        text = envelopes.refusal(code, str(getattr(error, "message", error)))
        return InvalidInput(text) if 400 <= code < 500 else PredictionRefused(text)
    return error
