"""What KServe's server checks of an inference request that comes as JSON, and how it says what is wrong: status 422."""

from typing import Any

from pydantic import BaseModel, StrictBool, StrictFloat, StrictInt, TypeAdapter

from api.dialects import framework
from api.dialects.kserve.errors import detailed, invalid

Parameters = dict[str, StrictFloat | StrictInt | StrictBool | str]


class RequestInput(BaseModel):
    name: str
    shape: list[int]
    datatype: str
    parameters: Parameters | None = None
    data: list[Any]


class RequestOutput(BaseModel):
    name: str
    parameters: Parameters | None = None


class InferenceRequest(BaseModel):
    id: str | None = None
    parameters: Parameters | None = None
    inputs: list[RequestInput]
    outputs: list[RequestOutput] | None = None


#: Its server takes bytes, too, so what is wrong is said of both.
_checked: TypeAdapter[Any] = TypeAdapter(InferenceRequest | bytes)


def check(body: bytes) -> None:
    """Raises Refused."""
    try:
        request: InferenceRequest = framework.checked(_checked, body)
    except framework.Unlike as error:
        raise detailed(422, error.detail) from error
    for one in request.inputs:
        if one.datatype == "FP16" and one.data:
            raise invalid(
                "Sending FP16 data via JSON is not supported. Please use the binary data format for input "
                f"{one.name[:200]}"
            )
