"""`@decode_args`: a `predict` that takes its inputs by their names, and whose types in the signature are codecs."""

import functools
import inspect
import typing
from typing import Any

from ..errors import MLServerError
from ..types import InferenceRequest, InferenceResponse
from .base import input_codec_for, input_codec_of, request_codec_of


def decode_args(predict: Any) -> Any:
    hints = typing.get_type_hints(predict)
    answer = hints.pop("return", None)
    names = [name for name in inspect.signature(predict).parameters if name != "self"]

    @functools.wraps(predict)
    async def called(self: Any, payload: InferenceRequest) -> InferenceResponse:
        given = predict(self, **_arguments(payload, names, hints))
        if inspect.isawaitable(given):
            given = await given
        return _response(self, given, answer)

    return called


def _arguments(payload: InferenceRequest, names: list[str], hints: dict[str, Any]) -> dict[str, Any]:
    if len(names) == 1 and (codec := request_codec_of(hints[names[0]])) is not None and _whole(payload, names):
        return {names[0]: codec.decode_request(payload)}
    found = {}
    for one in payload.inputs:
        if one.name not in names:
            raise MLServerError(
                f"Input '{one.name}' was not found. Available inputs are {', '.join(repr(name) for name in names)}."
            )
        hint = next(
            (each for each in (*typing.get_args(hints[one.name]), hints[one.name]) if input_codec_of(each)), None
        )
        codec = input_codec_of(hint)
        found[one.name] = one.data.root if codec is None else codec.decode_input(one)
    return found


def _whole(payload: InferenceRequest, names: list[str]) -> bool:
    return [one.name for one in payload.inputs] != names


def _response(model: Any, given: Any, hint: Any) -> InferenceResponse:
    if isinstance(given, InferenceResponse):
        return given
    if (codec := request_codec_of(hint)) is not None and not isinstance(given, tuple):
        response: InferenceResponse = codec.encode_response(model.name, given, model.version)
        return response
    outputs = []
    for number, one in enumerate(given if isinstance(given, tuple) else (given,)):
        found = input_codec_for(one)
        if found is None:
            raise MLServerError(f"Unexpected output value at position '{number}' ({type(one)}).")
        outputs.append(found.encode_output(f"output-{number}", one))
    return InferenceResponse(model_name=model.name, model_version=model.version, outputs=outputs)
