"""What the protocol's gRPC messages say, and replies as such messages.

The message classes are those of Triton's own client, `tritonclient[grpc]`; only this module and `grpc` import it, and
they are imported only where a port for gRPC is wanted.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from google.protobuf import json_format
from tritonclient.grpc import service_pb2

from api.dialects.oip.classification import classified
from api.dialects.oip.errors import Code, Refused
from api.dialects.oip.inference import Reply
from api.dialects.oip.requests import Inference, Wanted, check, classes_of, without_shared_memory
from api.dialects.rows import Given
from headway import tensors

SERVICE = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]

#: The field of `InferTensorContents` that holds a datatype's elements; FP16 and BF16 come as raw bytes only.
_FIELDS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents", "INT64": "int64_contents",
    "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents", "UINT64": "uint64_contents",
    "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip


def inference_of(request: Any) -> Inference:
    """Of a ModelInferRequest. Raises Refused."""
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise Refused(
            Code.INVALID_ARG,
            f"there are {len(raw)} raw_input_contents for {len(request.inputs)} inputs of model '{request.model_name}'",
        )
    given = [_input(one, raw[index] if raw else None, request.model_name) for index, one in enumerate(request.inputs)]
    wanted = []
    for one in request.outputs:
        parameters = _values(one.parameters)
        without_shared_memory("output", one.name, parameters)
        wanted.append(Wanted(one.name, True, classes_of(parameters)))
    return Inference(request.id, given, wanted, True, _values(request.parameters))


def _input(one: Any, raw: bytes | None, model: str) -> Given:
    name, datatype, shape = one.name, one.datatype, tuple(one.shape)
    if datatype not in tensors.DTYPES:
        raise Refused(Code.INVALID_ARG, f"invalid datatype for input {name[:200]}")
    without_shared_memory("input", name, one.parameters)
    typed = one.HasField("contents")
    if raw is not None and typed and one.contents.ListFields():
        raise Refused(
            Code.INVALID_ARG,
            f"contents field must not be specified when using raw_input_contents for '{name[:200]}' "
            f"for model '{model[:200]}'",
        )
    if raw is None and not typed:
        raise Refused(
            Code.INVALID_ARG,
            f"unable to find data for input tensor '{name[:200]}' for model '{model[:200]}' in request.",
        )
    data = _typed(name, datatype, one.contents) if raw is None else raw
    check(name, datatype, shape, len(data))
    return Given(name, datatype, shape, data)


def _typed(name: str, datatype: str, contents: Any) -> bytes:
    field = _FIELDS.get(datatype)
    if field is None:
        raise Refused(Code.INVALID_ARG, f"input '{name[:200]}' is {datatype}, which comes in raw_input_contents only")
    for there, _ in contents.ListFields():
        if there.name != field:
            raise Refused(
                Code.INVALID_ARG,
                f"unexpected explicit tensor data for input tensor '{name[:200]}': "
                f"{there.name}, expected {field} for '{datatype}'",
            )
    values = list(getattr(contents, field))
    if datatype == "BYTES":
        array = np.empty(len(values), dtype=object)
        array[:] = values
    else:
        try:
            array = np.array(values, tensors.DTYPES[datatype])
        except OverflowError as error:
            raise Refused(Code.INVALID_ARG, f"input '{name[:200]}' has a value that is no {datatype}") from error
    return tensors.from_array(array)[2]


def _values(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Of InferParameters; one that says nothing is None."""
    found = {}
    for name, one in parameters.items():
        which = one.WhichOneof("parameter_choice")
        found[name] = None if which is None else getattr(one, which)
    return found


def reply_of(reply: Reply, inference: Inference) -> Any:
    """A ModelInferResponse; every output as raw bytes. Raises Refused."""
    message = service_pb2.ModelInferResponse(model_name=reply.model, model_version=reply.version, id=reply.id)
    classes = {one.name: one.classes for one in inference.outputs}
    for output in reply.outputs:
        if count := classes.get(output.name):
            output = classified(output, count)
        _, _, data = tensors.from_array(output.array, output.datatype)
        message.outputs.add(name=output.name, datatype=output.datatype, shape=output.shape)
        message.raw_output_contents.append(data)
    for name, value in reply.parameters.items():
        if isinstance(value, bool):
            message.parameters[name].bool_param = value
        elif isinstance(value, int):
            message.parameters[name].int64_param = value
        else:
            message.parameters[name].string_param = str(value)
    return message


def parsed(value: Mapping[str, Any], message: Any) -> Any:
    """A message filled with what `value` says of it; what it has no field for is left out."""
    return json_format.ParseDict(value, message, ignore_unknown_fields=True)
