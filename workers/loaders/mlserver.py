"""A model that `model-settings.json` describes: one of MLServer's runtimes, or a class of its own in the same folder.

One prediction is one request, JSON of the Open Inference Protocol, and so is its answer. Requests of a micro-batch that
a runtime computes alike are one call of it; a class of the author's own is called for each, all at the same time.
"""

import asyncio
import importlib
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pydantic

from headway import envelopes, mlserver
from headway.errors import ItemCode, ItemFailed
from headway.manifest import Manifest, Tensor
from headway.mlserver import Settings
from headway.mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput
from headway.model import Context, InvalidInput
from headway.versions import UNTRUSTED
from workers.loaders import Unloadable, estimators
from workers.loaders.python import read_sources_only

_COMPAT = Path(__file__).with_name("mlserver_compat")
_PREDICT, _PROBABILITIES, _TRANSFORM = "predict", "predict_proba", "transform"
#: kind → what MLServer calls its runtime, and the outputs that it has.
_OUTPUTS = {
    "sklearn": ("SKLearnModel", (_PREDICT, _PROBABILITIES, _TRANSFORM)),
    "xgboost": ("XGBoostModel", (_PREDICT, _PROBABILITIES)),
    "lightgbm": ("LightGBMModel", (_PREDICT,)),
}


class MLServerModel:
    """Either, behind the protocol."""

    framework = "mlserver"

    def __init__(self, model: Any) -> None:
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        self._model = model

    def predict(self, inputs: list[Any], context: Context) -> object:
        requests: dict[int, InferenceRequest] = {}
        answers: list[Any] = [None] * len(inputs)
        for index, value in enumerate(inputs):
            try:
                requests[index] = InferenceRequest.model_validate(value)
            except pydantic.ValidationError as error:
                wrong = error.errors()[0]
                place = "/".join(map(str, wrong["loc"]))
                answers[index] = InvalidInput(f"the input is no inference request: /{place}: {wrong['msg']}")
        for index, answer in zip(requests, self._model.answer(list(requests.values())), strict=True):
            answers[index] = _failed(answer) if isinstance(answer, Exception) else _reply(answer)
        return answers


class Custom:
    """A class of the author's own, in an event loop of its own."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._loop = asyncio.new_event_loop()
        if self._loop.run_until_complete(model.load()) is False:
            raise Unloadable(f"{type(model).__name__}.load says that it is not ready")

    def answer(self, requests: list[InferenceRequest]) -> list[Any]:
        return self._loop.run_until_complete(self._all(requests))

    async def _all(self, requests: list[InferenceRequest]) -> list[Any]:
        return await asyncio.gather(*(self._model.predict(one) for one in requests), return_exceptions=True)


class Runtime:
    """An estimator, called as MLServer's runtimes call it."""

    def __init__(self, base: Any, estimator: Any, kind: str, settings: Settings) -> None:
        """`base`: an MLModel, which decodes and encodes."""
        self._base = base
        self._estimator = estimator
        self._kind = kind
        self._default = (settings.parameters.extra or {}).get("predict_fn")
        self._codecs = importlib.import_module("mlserver.codecs")
        self._error = importlib.import_module("mlserver.errors").InferenceError

    def answer(self, requests: list[InferenceRequest]) -> list[Any]:
        answers: list[Any] = [None] * len(requests)
        alike: defaultdict[object, list[tuple[int, Any, list[Any]]]] = defaultdict(list)
        for index, request in enumerate(requests):
            try:
                asked = self._asked(request)
                rows = self._base.decode_request(request, self._codecs.NumpyRequestCodec)
                alike[_likeness(rows, [one.name for one in asked], index)].append((index, rows, asked))
            except Exception as error:
                answers[index] = error
        for group in alike.values():
            for (index, _, _), answer in zip(group, self._together(group), strict=True):
                answers[index] = answer
        return answers

    def _together(self, group: list[tuple[int, Any, list[Any]]]) -> list[Any]:
        if len(group) > 1:
            ends = np.cumsum([len(rows) for _, rows, _ in group])
            try:
                whole = np.concatenate([rows for _, rows, _ in group])
                columns = [np.asarray(self._call(one.name)(whole)) for one in group[0][2]]
                if all(len(column) == ends[-1] for column in columns):
                    parts = [np.split(column, ends[:-1]) for column in columns]
                    return [
                        self._response(asked, [part[number] for part in parts])
                        for number, (_, _, asked) in enumerate(group)
                    ]
            except Exception:  # noqa: S110  each by itself says whose it is
                pass
        return [self._alone(rows, asked) for _, rows, asked in group]

    def _alone(self, rows: Any, asked: list[Any]) -> Any:
        try:
            return self._response(asked, [self._call(one.name)(rows) for one in asked])
        except Exception as error:
            return error

    def _response(self, asked: list[Any], columns: list[Any]) -> InferenceResponse:
        frames = [column for column in columns if self._codecs.PandasCodec.can_encode(column)]
        if frames and len(asked) > 1:
            names = [one.name for one in asked]
            raise self._error(
                f"{asked[0].name} returned columnar data of type {type(frames[0])} and {names} were requested. "
                "Cannot encode multiple columnar data responses into one response."
            )
        if frames:
            outputs = self._codecs.PandasCodec.encode_outputs(frames[0])
        else:
            outputs = [
                self._base.encode(column, one, self._codecs.NumpyCodec)
                for one, column in zip(asked, columns, strict=True)
            ]
        return InferenceResponse(model_name=self._base.name, outputs=outputs)

    def _asked(self, request: InferenceRequest) -> list[Any]:
        """The outputs, as they are asked for. Raises InferenceError."""
        types = importlib.import_module("mlserver.types")
        if not request.outputs:
            return [types.RequestOutput(name=self._default or _PREDICT)]
        runtime, names = _OUTPUTS[self._kind]
        for one in request.outputs:
            if one.name not in names:
                *others, last = (f"'{name}'" for name in names)
                listed = f"{', '.join(others)} and {last}" if others else last
                raise self._error(f"{runtime} only supports {listed} as outputs ({one.name} was received)")
            if one.name == _PROBABILITIES:
                end = self._estimator.steps[-1][-1] if hasattr(self._estimator, "steps") else self._estimator
                if not hasattr(end, _PROBABILITIES):
                    raise self._error(f"{type(end)} models do not support '{_PROBABILITIES}'")
        return list(request.outputs)

    def _call(self, name: str) -> Any:
        return getattr(self._estimator, name)


def load(manifest: Manifest, context: Context) -> MLServerModel:
    settings, _ = mlserver.read(context.path)
    said = manifest.config["mlserver"]
    if mlserver.unpickled(context.path, settings) is not None and not manifest.artifact.trust:
        raise Unloadable(UNTRUSTED)
    sys.path.insert(0, str(_COMPAT))
    importlib.import_module("mlserver.utils").folder = str(context.path)  # type: ignore[attr-defined]
    package = importlib.import_module("mlserver")
    given = package.ModelSettings.model_validate(said)
    file = mlserver.artifact(context.path, settings)
    if settings.kind is None:
        return MLServerModel(Custom(_own(context.path, settings.implementation, package)(given)))
    assert file is not None
    estimator = estimators.read(settings.kind, file, labels=True)
    return MLServerModel(Runtime(package.MLModel(given), estimator, settings.kind, settings))


def _own(folder: Path, implementation: str, package: Any) -> Any:
    """The class that the settings name. Raises Unloadable."""
    read_sources_only(folder)
    sys.path.insert(1, str(folder))
    module, _, name = implementation.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        raise Unloadable(f"implementation is {implementation}: {error}") from error
    if not isinstance(found, type) or not issubclass(found, package.MLModel):
        raise Unloadable(f"implementation is {implementation}, which is no subclass of mlserver.MLModel")
    return found


def _likeness(rows: Any, names: list[str], index: int) -> object:
    """What has the same can be computed in one call."""
    if isinstance(rows, np.ndarray) and rows.ndim > 1 and len(rows) and rows.dtype.kind in "biuf":
        return rows.shape[1:], rows.dtype.str, tuple(names)
    return index


def _reply(response: Any) -> Any:
    """As JSON has it: the outputs and parameters; who asked adds the rest."""
    if not isinstance(response, InferenceResponse):
        return ItemFailed(ItemCode.OUTPUT_INVALID, f"predict answers a {type(response).__name__}")
    reply: dict[str, Any] = {"outputs": [_output(one) for one in response.outputs]}
    if response.parameters is not None:
        parameters = response.parameters.model_dump()
        parameters.pop("headers", None)
        reply["parameters"] = parameters
    return reply


def _output(one: ResponseOutput) -> Mapping[str, Any]:
    shown = one.model_dump()
    shown["datatype"] = one.datatype.value
    data = one.data.root
    shown["data"] = [_text(value) for value in data] if isinstance(data, list) else _text(data)
    return shown


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def _failed(error: Exception) -> Exception:
    """With the status of an error that has one; anything else is the model's own failure."""
    status = getattr(error, "status_code", None)
    if isinstance(status, int) and 100 <= status <= 999:
        code = ItemCode.INVALID_INPUT if status < 500 else ItemCode.MODEL_ERROR
        return ItemFailed(code, str(error) if status == 400 else envelopes.refusal(status, str(error)))
    return ItemFailed(ItemCode.MODEL_ERROR, f"{type(error).__name__}: {error}")
