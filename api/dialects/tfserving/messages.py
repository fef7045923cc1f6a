"""The messages of TF Serving's gRPC services: which fields they have, by which number, and what they say.

They are put together here, in a pool of their own, so that neither TensorFlow nor any other package has to bring them,
and none that does is disturbed. Fields that nothing here reads or writes are left out: protobuf passes over them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, wrappers_pb2
from google.protobuf.message_factory import GetMessageClass

from api.dialects.rows import Given
from api.dialects.tfserving.errors import Code, Refused, invalid
from api.dialects.tfserving.models import STATES, Asked, Found, Status
from api.dialects.tfserving.replies import Output
from api.dialects.tfserving.signatures import Info, Signature, signatures_of
from api.dialects.tfserving.types import BY_DATATYPE, BY_NUMBER, Type
from headway import tensors

#: Message → its fields: "NAME NUMBER TYPE", a type being protobuf's, a message's, or map of string to one; enums are
#: read as the numbers that they are. + is repeated.
_TENSORFLOW = {
    "TensorShapeProto": "dim 2 +TensorShapeProto.Dim, unknown_rank 3 bool",
    "TensorShapeProto.Dim": "size 1 int64, name 2 string",
    "TensorProto": (
        "dtype 1 int32, tensor_shape 2 TensorShapeProto, tensor_content 4 bytes, float_val 5 +float, "
        "double_val 6 +double, int_val 7 +int32, string_val 8 +bytes, int64_val 10 +int64, bool_val 11 +bool, "
        "half_val 13 +int32, uint32_val 16 +uint32, uint64_val 17 +uint64"
    ),
    "TensorInfo": "name 1 string, dtype 2 int32, tensor_shape 3 TensorShapeProto",
    "SignatureDef": "inputs 1 map TensorInfo, outputs 2 map TensorInfo, method_name 3 string",
}
_SERVING = {
    "ModelSpec": "name 1 string, version 2 google.protobuf.Int64Value, signature_name 3 string, version_label 4 string",
    "PredictRequest": "model_spec 1 ModelSpec, inputs 2 map tensorflow.TensorProto, output_filter 3 +string",
    "PredictResponse": "outputs 1 map tensorflow.TensorProto, model_spec 2 ModelSpec",
    "GetModelMetadataRequest": "model_spec 1 ModelSpec, metadata_field 2 +string",
    "GetModelMetadataResponse": "model_spec 1 ModelSpec, metadata 2 map google.protobuf.Any",
    "SignatureDefMap": "signature_def 1 map tensorflow.SignatureDef",
    "ClassificationRequest": "model_spec 1 ModelSpec",
    "ClassificationResponse": "model_spec 2 ModelSpec",
    "RegressionRequest": "model_spec 1 ModelSpec",
    "RegressionResponse": "model_spec 2 ModelSpec",
    "MultiInferenceRequest": "",
    "MultiInferenceResponse": "",
    "GetModelStatusRequest": "model_spec 1 ModelSpec",
    "GetModelStatusResponse": "model_version_status 1 +ModelVersionStatus",
    "ModelVersionStatus": "version 1 int64, state 2 int32, status 3 StatusProto",
    "StatusProto": "error_code 1 int32, error_message 2 string",
    "ReloadConfigRequest": "config 1 ModelServerConfig",
    "ReloadConfigResponse": "status 1 StatusProto",
    "ModelServerConfig": "model_config_list 1 ModelConfigList",
    "ModelConfigList": "config 1 +ModelConfig",
    "ModelConfig": "name 1 string, base_path 2 string, model_platform 4 string",
}
_SERVICES = {
    "PredictionService": {
        "Predict": "Predict",
        "GetModelMetadata": "GetModelMetadata",
        "Classify": "Classification",
        "Regress": "Regression",
        "MultiInference": "MultiInference",
    },
    "ModelService": {"GetModelStatus": "GetModelStatus", "HandleReloadConfigRequest": "ReloadConfig"},
}

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    name: getattr(_Field, f"TYPE_{name.upper()}")
    for name in ("bool", "bytes", "string", "float", "double", "int32", "int64", "uint32", "uint64")
}


def _pool() -> Any:
    pool = descriptor_pool.DescriptorPool()
    for known in (any_pb2, wrappers_pb2):
        pool.AddSerializedFile(known.DESCRIPTOR.serialized_pb)
    for package, described in (("tensorflow", _TENSORFLOW), ("tensorflow.serving", _SERVING)):
        file = descriptor_pb2.FileDescriptorProto(name=f"headway/{package}.proto", package=package, syntax="proto3")
        if package == "tensorflow.serving":
            file.dependency.extend(
                ["headway/tensorflow.proto", "google/protobuf/any.proto", "google/protobuf/wrappers.proto"]
            )
            for name, methods in _SERVICES.items():
                service = file.service.add(name=name)
                for method, stem in methods.items():
                    asked, answered = (f".{package}.{stem}{end}" for end in ("Request", "Response"))
                    service.method.add(name=method, input_type=asked, output_type=answered)
        made: dict[str, Any] = {}
        for name, fields in described.items():
            outer, _, inner = name.rpartition(".")
            made[name] = (made[outer].nested_type if outer else file.message_type).add(name=inner)
            for field in filter(None, fields.split(", ")):
                _add(made[name], f".{package}.{name}", package, field)
        pool.Add(file)
    return pool


def _add(message: Any, path: str, package: str, said: str) -> None:
    name, number, *type_ = said.split()
    field = message.field.add(name=name, number=int(number), label=_Field.LABEL_OPTIONAL)
    if type_[0] == "map":
        entry = message.nested_type.add(name=f"{name.title().replace('_', '')}Entry")
        entry.options.map_entry = True
        _add(entry, "", package, "key 1 string")
        _add(entry, "", package, f"value 2 {type_[1]}")
        field.label, field.type, field.type_name = _Field.LABEL_REPEATED, _Field.TYPE_MESSAGE, f"{path}.{entry.name}"
        return
    kind = type_[0].removeprefix("+")
    if kind != type_[0]:
        field.label = _Field.LABEL_REPEATED
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        whole = kind.startswith(("google.", "tensorflow."))
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".{kind}" if whole else f".{package}.{kind}"


_POOL = _pool()
PREDICTION_SERVICE = _POOL.FindServiceByName("tensorflow.serving.PredictionService")
MODEL_SERVICE = _POOL.FindServiceByName("tensorflow.serving.ModelService")


def _class(name: str) -> Any:
    return GetMessageClass(_POOL.FindMessageTypeByName(f"tensorflow.serving.{name}"))


PredictResponse = _class("PredictResponse")
GetModelMetadataResponse = _class("GetModelMetadataResponse")
GetModelStatusResponse = _class("GetModelStatusResponse")
ReloadConfigResponse = _class("ReloadConfigResponse")
_SignatureDefMap = _class("SignatureDefMap")


def asked_of(spec: Any) -> Asked:
    """Of a ModelSpec. Raises Refused."""
    if not spec.name:
        raise invalid("Missing ModelSpec")
    version = str(spec.version.value) if spec.HasField("version") else None
    return Asked(spec.name, version, (spec.version_label or None) if version is None else None)


#: dtype of ours → the field that holds the elements where `tensor_content` does not.
_VALUES = {
    "float32": "float_val", "float64": "double_val", "int32": "int_val", "int16": "int_val", "int8": "int_val",
    "uint8": "int_val", "uint16": "int_val", "string": "string_val", "int64": "int64_val", "bool": "bool_val",
    "float16": "half_val", "bfloat16": "half_val", "uint32": "uint32_val", "uint64": "uint64_val",
}  # fmt: skip


def inputs_of(request: Any, signature: Signature) -> list[Given]:
    """Of a PredictRequest. Raises Refused."""
    if set(request.inputs) != signature.inputs.keys():
        raise _mismatch(request, signature)
    return [_given(name, request.inputs[name]) for name in signature.inputs]


def _mismatch(request: Any, signature: Signature) -> Refused:
    sent, wanted = sorted(request.inputs), sorted(signature.inputs)
    more = [name for name in sent if name not in wanted]
    less = [name for name in wanted if name not in sent]
    return invalid(
        f"input size does not match signature: {len(sent)}!={len(wanted)} len({{{','.join(sent)[:500]}}})!="
        f"len({{{','.join(wanted)}}}). Sent extra: {{{','.join(more)[:500]}}}. Missing but required: "
        f"{{{','.join(less)}}}."
    )


def _given(name: str, tensor: Any) -> Given:
    type_ = BY_NUMBER.get(tensor.dtype)
    if type_ is None:
        raise invalid(f"input '{name}' has the dtype {tensor.dtype}, which no model here takes")
    if tensor.tensor_shape.unknown_rank:
        raise invalid(f"input '{name}' is of no rank")
    shape = tuple(one.size for one in tensor.tensor_shape.dim)
    if any(length < 0 for length in shape):
        raise invalid(f"input '{name}' has the shape {list(shape)}")
    count = 1
    for length in shape:
        count *= length
        if count > _MOST_ELEMENTS:
            raise invalid(f"input '{name}' has the shape {list(shape)}, which is more than a message holds")
    return Given(name, type_.datatype, shape, _data(name, tensor, type_, count))


_MOST_ELEMENTS = 1 << 31


def _data(name: str, tensor: Any, type_: Type, count: int) -> bytes:
    """As `headway.tensors` has it; what a list lacks is as its last element is."""
    values = getattr(tensor, _VALUES[type_.dtype])
    if type_.dtype == "string":
        if len(values) > count or (count and not values):
            raise invalid(f"input '{name}' has {len(values)} strings for {count} elements")
        texts = np.empty(count, dtype=object)
        texts[:] = [*values, *([values[-1]] * (count - len(values)) if values else [])]
        return tensors.from_array(texts)[2]
    dtype = np.dtype("uint16" if type_.dtype in ("float16", "bfloat16") else type_.dtype).newbyteorder("<")
    if tensor.tensor_content:
        if len(tensor.tensor_content) != count * dtype.itemsize:
            raise invalid(
                f"input '{name}' has {len(tensor.tensor_content)} bytes of tensor_content for {count} elements of "
                f"{type_.word}"
            )
        return bytes(tensor.tensor_content)
    if len(values) > count:
        raise invalid(f"input '{name}' has {len(values)} values for {count} elements")
    try:
        array = np.array(values, dtype)
    except (OverflowError, ValueError) as error:
        raise invalid(f"input '{name}' has a value that is no {type_.word}") from error
    if len(array) < count:
        last = array[-1:] if len(array) else np.zeros(1, dtype)
        array = np.concatenate([array, np.repeat(last, count - len(array))])
    return array.astype(dtype).tobytes()


def response_of(found: Found, signature_name: str, outputs: Sequence[Output], wanted: Sequence[str]) -> Any:
    """A PredictResponse. Raises Refused."""
    response = PredictResponse()
    _name(response.model_spec, found, signature_name)
    there = {one.name: one for one in outputs}
    for name in wanted or there:
        if name not in there:
            raise invalid(f"output tensor alias not found in signature: {name[:200]} Outputs expected to be in the set "
                          f"{{{','.join(sorted(there))}}}.")  # fmt: skip
        _write(response.outputs[name], there[name])
    return response


def _name(spec: Any, found: Found, signature_name: str) -> None:
    spec.name, spec.signature_name = found.target.model, signature_name
    if _is_number(found.target.version):
        spec.version.value = int(found.target.version)


def _is_number(version: str) -> bool:
    return version.isascii() and version.isdecimal() and int(version) < 1 << 63


def _write(tensor: Any, output: Output) -> None:
    """In the typed list, as TF Serving does: there are clients that look nowhere else."""
    type_ = BY_DATATYPE[output.datatype]
    tensor.dtype = type_.number
    tensor.tensor_shape.SetInParent()
    for length in output.array.shape:
        tensor.tensor_shape.dim.add(size=length)
    if type_.dtype == "string":
        flat = output.array.reshape(-1).tolist()
        tensor.string_val.extend(one if isinstance(one, bytes) else str(one).encode() for one in flat)
    else:
        _, _, data = tensors.from_array(output.array, output.datatype)
        dtype = "uint16" if type_.dtype in ("float16", "bfloat16") else type_.dtype
        getattr(tensor, _VALUES[type_.dtype]).extend(np.frombuffer(data, np.dtype(dtype).newbyteorder("<")).tolist())


def metadata_of(found: Found) -> Any:
    """A GetModelMetadataResponse."""
    signatures = _SignatureDefMap()
    for name, one in signatures_of(found.manifest).items():
        into = signatures.signature_def[name]
        into.method_name = one.method_name
        _describe(into.inputs, one.inputs)
        _describe(into.outputs, one.outputs)
    response = GetModelMetadataResponse()
    _name(response.model_spec, found, "")
    response.metadata["signature_def"].Pack(signatures)
    return response


def _describe(into: Any, infos: Mapping[str, Info]) -> None:
    for name, info in infos.items():
        described = into[name]
        described.name = info.name
        described.dtype = 0 if info.type is None else info.type.number
        described.tensor_shape.unknown_rank = info.shape is None
        for length in info.shape or ():
            described.tensor_shape.dim.add(size=length)


_UNKNOWN_ERROR = 2


def status_of(found: Sequence[Status]) -> Any:
    """A GetModelStatusResponse; versions that are no numbers cannot be told in it."""
    response = GetModelStatusResponse()
    for one in found:
        if _is_number(one.version):
            shown = response.model_version_status.add(version=int(one.version), state=STATES[one.state])
            shown.status.error_code = _UNKNOWN_ERROR if one.error else 0
            shown.status.error_message = one.error
    return response


def no_reload() -> Refused:
    """Of HandleReloadConfigRequest."""
    return Refused(
        Code.UNIMPLEMENTED,
        "the models are those of the operator's folder, which is looked at all the time; no client sets them",
    )
