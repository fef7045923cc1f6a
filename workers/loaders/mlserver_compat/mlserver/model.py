"""What a model's author subclasses."""

from typing import Any

from .codecs import base
from .settings import ModelSettings
from .types import (
    InferenceRequest,
    InferenceResponse,
    MetadataTensor,
    RequestInput,
    RequestOutput,
    ResponseOutput,
)


class MLModel:
    """`load` once, `predict` for each request."""

    def __init__(self, settings: ModelSettings) -> None:
        self._settings = settings
        self._inputs_index = _by_name(settings.inputs)
        self._outputs_index = _by_name(settings.outputs)
        self.ready = False

    async def load(self) -> bool:
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        raise NotImplementedError("predict() method not implemented")

    async def unload(self) -> bool:
        return True

    @property
    def name(self) -> str:
        return self._settings.name

    @property
    def version(self) -> str | None:
        return self._settings.version

    @property
    def settings(self) -> ModelSettings:
        return self._settings

    @property
    def inputs(self) -> list[MetadataTensor]:
        return self._settings.inputs

    @inputs.setter
    def inputs(self, value: list[MetadataTensor]) -> None:
        self._settings.inputs = value
        self._inputs_index = _by_name(value)

    @property
    def outputs(self) -> list[MetadataTensor]:
        return self._settings.outputs

    @outputs.setter
    def outputs(self, value: list[MetadataTensor]) -> None:
        self._settings.outputs = value
        self._outputs_index = _by_name(value)

    def decode(self, request_input: RequestInput, default_codec: Any = None) -> Any:
        """By the input's content type, else by the one that is declared, else by `default_codec`."""
        codec = base.input_codec(base.content_type_of(request_input, self._inputs_index.get(request_input.name)))
        codec = codec or default_codec
        return request_input.data if codec is None else codec.decode_input(request_input)

    def decode_request(self, inference_request: InferenceRequest, default_codec: Any = None) -> Any:
        """By the request's content type, else the model's, else `default_codec`."""
        codec = base.request_codec(base.content_type_of(inference_request, self._settings)) or default_codec
        if codec is None:
            return inference_request
        with base.declared(self._inputs_index):
            return codec.decode_request(inference_request)

    def encode(self, payload: Any, request_output: RequestOutput, default_codec: Any = None) -> ResponseOutput:
        """By the content type that was asked for, else by what it is."""
        asked = base.content_type_of(request_output, self._outputs_index.get(request_output.name))
        codec = base.input_codec(asked) if asked else base.input_codec_for(payload)
        codec = codec or default_codec
        if codec is None:
            raise base.CodecNotFound(f"output field with name '{request_output.name}'")
        output: ResponseOutput = codec.encode_output(request_output.name, payload)
        return output

    def encode_response(self, payload: Any, default_codec: Any = None) -> InferenceResponse:
        codec = base.request_codec_for(payload) or default_codec
        if codec is None:
            raise base.CodecNotFound(f"output response with type {type(payload)}")
        response: InferenceResponse = codec.encode_response(self.name, payload, self.version)
        return response


def _by_name(tensors: list[MetadataTensor]) -> dict[str, MetadataTensor]:
    return {one.name: one for one in tensors}
