"""Triton's gRPC in the cases' own words: inference messages as JSON, tensors with their values beside them.

A request to the port "grpc" has the method's name as its path. Its body is {"json": message} or, of ModelStreamInfer,
{"json": [message, …]}, which are sent one after the other and followed by the end of the stream. The reply's status is
gRPC's number; its body is what came, in that order, and the last word where the call has failed.
"""

import struct
from typing import Any

import grpc
from google.protobuf import json_format
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.dialects.exchanges import Reply, Request, Volatile

_TIMEOUT_S = 60.0
#: How a datatype's elements are written in raw contents.
_FORMATS = {"BOOL": "?", "INT32": "i", "INT64": "q", "FP32": "f", "FP64": "d"}


def send(request: Request, url: str, volatile: Volatile) -> Reply:
    """`url`: grpc://host:port."""
    asked = (request.body or {})["json"]
    with grpc.insecure_channel(url.removeprefix("grpc://")) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        method = getattr(stub, request.path)
        replies: list[Any] = []
        status, details = 0, ""
        try:
            if isinstance(asked, list):
                replies.extend(map(_shown, method(iter(map(_message, asked)), timeout=_TIMEOUT_S)))
            else:
                replies.append(_shown(method(_message(asked), timeout=_TIMEOUT_S)))
                # What answers several requests of a stream comes as it likes; that of each in its order.
                replies.sort(key=lambda reply: str(reply.get("id", "")))
        except grpc.RpcError as error:
            status, details = error.code().value[0], error.details()
    return Reply(status, {}, {"json": volatile.of([*replies, *([{"details": details}] if status else [])])})


def _message(asked: dict[str, Any]) -> Any:
    return json_format.ParseDict(asked, service_pb2.ModelInferRequest())


def _shown(message: Any) -> dict[str, Any]:
    """As JSON, without what is not set, and with the tensors' values in place of raw contents."""
    if isinstance(message, service_pb2.ModelStreamInferResponse):
        shown = {} if not message.error_message else {"error_message": message.error_message}
        if message.HasField("infer_response"):
            shown |= _shown(message.infer_response)
        return shown
    shown = {key: getattr(message, key) for key in ("model_name", "model_version", "id") if getattr(message, key)}
    if message.parameters:
        shown["parameters"] = {key: _value(message.parameters[key]) for key in sorted(message.parameters)}
    if message.outputs:
        contents = message.raw_output_contents
        shown["outputs"] = [
            {"name": one.name, "datatype": one.datatype, "shape": list(one.shape), "data": _values(one.datatype, raw)}
            for one, raw in zip(message.outputs, contents, strict=True)
        ]
    return shown


def _value(parameter: Any) -> Any:
    which = parameter.WhichOneof("parameter_choice")
    return None if which is None else getattr(parameter, which)


def _values(datatype: str, raw: bytes) -> list[Any]:
    if datatype != "BYTES":
        kind = _FORMATS[datatype]
        return list(struct.unpack(f"<{len(raw) // struct.calcsize(kind)}{kind}", raw))
    values, at = [], 0
    while at < len(raw):
        (length,) = struct.unpack_from("<I", raw, at)
        values.append(raw[at + 4 : at + 4 + length].decode())
        at += 4 + length
    return values
