"""The messages of the Open Inference Protocol as MLServer has them: what it checks, and what its models are shown.

A field or a check that another server of the protocol has not is MLServer's own: datatypes are a closed list, `data` is
anything.
"""

import enum
from typing import Any

import pydantic
from pydantic import ConfigDict, RootModel


class BaseModel(pydantic.BaseModel):
    """As MLServer's are: what is unset or None is left out where it is sent."""

    model_config = ConfigDict(protected_namespaces=(), use_enum_values=False)

    def model_dump(self, *, exclude_unset: bool = True, exclude_none: bool = True, **more: Any) -> dict[str, Any]:
        return super().model_dump(exclude_unset=exclude_unset, exclude_none=exclude_none, **more)

    def dict(self, **more: Any) -> dict[str, Any]:
        return self.model_dump(**more)


class Parameters(BaseModel):
    model_config = ConfigDict(extra="allow")

    content_type: str | None = None
    headers: dict[str, Any] | None = None


class TensorData(RootModel[list[Any] | Any]):
    """Iterates as what it holds."""

    root: list[Any] | Any

    def __iter__(self) -> Any:
        return iter(self.root)

    def __getitem__(self, at: Any) -> Any:
        return self.root[at]

    def __len__(self) -> int:
        return len(self.root)


class Datatype(enum.Enum):
    BOOL = "BOOL"
    UINT8 = "UINT8"
    UINT16 = "UINT16"
    UINT32 = "UINT32"
    UINT64 = "UINT64"
    INT8 = "INT8"
    INT16 = "INT16"
    INT32 = "INT32"
    INT64 = "INT64"
    FP16 = "FP16"
    FP32 = "FP32"
    FP64 = "FP64"
    BYTES = "BYTES"


class MetadataTensor(BaseModel):
    name: str
    datatype: Datatype
    shape: list[int]
    parameters: Parameters | None = None


class RequestInput(BaseModel):
    name: str
    shape: list[int]
    datatype: Datatype
    parameters: Parameters | None = None
    data: TensorData


class RequestOutput(BaseModel):
    name: str
    parameters: Parameters | None = None


class ResponseOutput(BaseModel):
    name: str
    shape: list[int]
    datatype: Datatype
    parameters: Parameters | None = None
    data: TensorData


class InferenceRequest(BaseModel):
    id: str | None = None
    parameters: Parameters | None = None
    inputs: list[RequestInput]
    outputs: list[RequestOutput] | None = None


class InferenceResponse(BaseModel):
    model_name: str
    model_version: str | None = None
    id: str | None = None
    parameters: Parameters | None = None
    outputs: list[ResponseOutput]


class MetadataModelResponse(BaseModel):
    name: str
    versions: list[str] | None = None
    platform: str
    inputs: list[MetadataTensor] | None = None
    outputs: list[MetadataTensor] | None = None
    parameters: Parameters | None = None


class RepositoryIndexRequest(BaseModel):
    ready: bool | None = None
