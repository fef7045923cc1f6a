"""`pd`: a data frame, an input a column. Needs pandas where Headway is."""

import json
from typing import Any

import numpy as np

from ..types import InferenceRequest, InferenceResponse, Parameters, ResponseOutput
from .base import CodecError, RequestCodec, decoded, register_request_codec
from .numpy import listed, to_datatype, to_dtype, with_batch
from .string import is_list_of

_JSON = "pd_json"


def _pandas() -> Any:
    try:
        import pandas
    except ImportError as error:
        raise CodecError("the content type 'pd' needs pandas: pip install pandas where Headway is") from error
    return pandas


@register_request_codec
class PandasCodec(RequestCodec):
    ContentType = "pd"
    JsonContentType = _JSON

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        return type(payload).__name__ == "DataFrame" and type(payload).__module__.startswith("pandas")

    @classmethod
    def encode_outputs(cls, payload: Any, use_bytes: bool = True) -> list[ResponseOutput]:
        return [_output(str(name), payload[name].to_numpy()) for name in payload]

    @classmethod
    def encode_response(
        cls, model_name: str, payload: Any, model_version: str | None = None, **more: Any
    ) -> InferenceResponse:
        return InferenceResponse(
            model_name=model_name,
            model_version=model_version,
            parameters=Parameters(content_type=cls.ContentType),
            outputs=cls.encode_outputs(payload),
        )

    @classmethod
    def decode_request(cls, request: InferenceRequest) -> Any:
        pandas = _pandas()
        return pandas.DataFrame({one.name: _series(pandas, one) for one in request.inputs})


def _series(pandas: Any, one: Any) -> Any:
    if one.parameters is not None and one.parameters.content_type == _JSON:
        return pandas.Series([json.loads(text) for text in one.data.root])
    values = decoded(one, None)
    if one.datatype.value == "BYTES":
        return pandas.Series(values)
    if isinstance(values, np.ndarray):
        values = values.reshape(one.shape[0], 1).squeeze(axis=1)
    return pandas.Series(values, dtype=to_dtype(one))


def _output(name: str, column: np.ndarray[Any, Any]) -> ResponseOutput:
    column = np.asarray(column)
    datatype, content_type, data = to_datatype(column.dtype), None, listed(column)
    if datatype == "BYTES":
        content_type = "str" if is_list_of(data, str) else _JSON
        data = data if content_type == "str" else [json.dumps(one) for one in data]
    return ResponseOutput(
        name=name,
        datatype=datatype,  # type: ignore[arg-type]
        shape=with_batch(list(column.shape)),
        data=data,  # type: ignore[arg-type]
        parameters=None if content_type is None else Parameters(content_type=content_type),
    )
