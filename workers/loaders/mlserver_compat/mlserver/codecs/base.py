"""Codecs by their content types: of an input or output, and of a whole request or response."""

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any

from ..errors import MLServerError
from ..types import InferenceRequest, InferenceResponse, Parameters, RequestInput, ResponseOutput


class CodecError(MLServerError):
    def __init__(self, msg: str) -> None:
        super().__init__(f"There was an error encoding / decoding the payload: {msg}")


class CodecNotFound(MLServerError):
    def __init__(self, what: str) -> None:
        super().__init__(f"Codec not found for {what}")


class InputCodec:
    """Of one input or output."""

    ContentType = ""
    TypeHint: Any = None

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        return False

    @classmethod
    def encode_output(cls, name: str, payload: Any, **more: Any) -> ResponseOutput:
        raise NotImplementedError

    @classmethod
    def decode_input(cls, request_input: RequestInput) -> Any:
        raise NotImplementedError

    @classmethod
    def decode_output(cls, response_output: ResponseOutput) -> Any:
        return cls.decode_input(RequestInput.model_validate(response_output.model_dump()))

    @classmethod
    def encode_input(cls, name: str, payload: Any, **more: Any) -> RequestInput:
        return RequestInput.model_validate(cls.encode_output(name, payload, **more).model_dump())


class RequestCodec:
    """Of a whole request or response."""

    ContentType = ""
    TypeHint: Any = None

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        return False

    @classmethod
    def encode_response(
        cls, model_name: str, payload: Any, model_version: str | None = None, **more: Any
    ) -> InferenceResponse:
        raise NotImplementedError

    @classmethod
    def decode_request(cls, request: InferenceRequest) -> Any:
        raise NotImplementedError


class SingleInputRequestCodec(RequestCodec):
    """The request is its one input."""

    InputCodec: type[InputCodec]

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        return cls.InputCodec.can_encode(payload)

    @classmethod
    def encode_response(
        cls, model_name: str, payload: Any, model_version: str | None = None, **more: Any
    ) -> InferenceResponse:
        return InferenceResponse(
            model_name=model_name,
            model_version=model_version,
            parameters=Parameters(content_type=cls.ContentType),
            outputs=[cls.InputCodec.encode_output("output-1", payload, **more)],
        )

    @classmethod
    def encode_request(cls, payload: Any, **more: Any) -> InferenceRequest:
        return InferenceRequest(
            parameters=Parameters(content_type=cls.ContentType),
            inputs=[cls.InputCodec.encode_input("input-1", payload, **more)],
        )

    @classmethod
    def decode_request(cls, request: InferenceRequest) -> Any:
        if len(request.inputs) != 1:
            raise CodecError(
                f"The '{cls.ContentType}' codec only supports a single input tensor "
                f"({len(request.inputs)} were received)"
            )
        return decoded(request.inputs[0], cls.InputCodec)


#: Inputs of the model that is called, as its settings declare them.
_declared: ContextVar[Mapping[str, Any]] = ContextVar("declared", default={})  # noqa: B039  never written to


@contextlib.contextmanager
def declared(inputs: Mapping[str, Any]) -> Iterator[None]:
    token = _declared.set(inputs)
    try:
        yield
    finally:
        _declared.reset(token)


def decoded(request_input: RequestInput, default: type[InputCodec] | None) -> Any:
    """By the content type of its own, else the declared one, else `default`; as it came where there is none."""
    found = content_type_of(request_input, _declared.get().get(request_input.name))
    codec = input_codec(found) or default
    return request_input.data.root if codec is None else codec.decode_input(request_input)


def content_type_of(one: Any, behind: Any = None) -> str | None:
    """What it says itself, else what stands behind it."""
    for said in (one, behind):
        parameters = getattr(said, "parameters", None)
        if parameters is not None and parameters.content_type:
            return str(parameters.content_type)
    return None


_inputs: dict[str, type[InputCodec]] = {}
_requests: dict[str, type[RequestCodec]] = {}


def register_input_codec(codec: Any) -> Any:
    _inputs[codec.ContentType] = codec
    return codec


def register_request_codec(codec: Any) -> Any:
    _requests[codec.ContentType] = codec
    return codec


def input_codec(content_type: str | None) -> Any:
    return _inputs.get(content_type or "")


def request_codec(content_type: str | None) -> Any:
    return _requests.get(content_type or "")


def input_codec_for(payload: Any) -> Any:
    return next((codec for codec in _inputs.values() if codec.can_encode(payload)), None)


def request_codec_for(payload: Any) -> Any:
    return next((codec for codec in _requests.values() if codec.can_encode(payload)), None)


def of_hint(hint: Any, codecs: Mapping[str, Any]) -> Any:
    """The codec of a type in a signature."""
    return next((codec for codec in codecs.values() if codec.TypeHint == hint), None)


def input_codec_of(hint: Any) -> Any:
    return of_hint(hint, _inputs)


def request_codec_of(hint: Any) -> Any:
    return of_hint(hint, _requests)
