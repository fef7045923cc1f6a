"""What `import triton_python_backend_utils` is in a device process: the names that a model.py of Triton's uses.

What they are called, take and answer is as in Triton's own; nothing of a server lies behind them. The rule: what is not
done here raises TritonModelException, and says so.
"""

import enum
import json
import logging
import struct
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, NoReturn, Protocol

import numpy as np

from batching.outcomes import to_numpy
from headway.model import Item
from headway.tensors import DATATYPES

logger = logging.getLogger("model")

TRITON_STRING_TO_NUMPY: dict[str, Any] = {
    "TYPE_BOOL": bool, "TYPE_UINT8": np.uint8, "TYPE_UINT16": np.uint16, "TYPE_UINT32": np.uint32,
    "TYPE_UINT64": np.uint64, "TYPE_INT8": np.int8, "TYPE_INT16": np.int16, "TYPE_INT32": np.int32,
    "TYPE_INT64": np.int64, "TYPE_FP16": np.float16, "TYPE_FP32": np.float32, "TYPE_FP64": np.float64,
    "TYPE_STRING": np.object_,
}  # fmt: skip
#: Numbers of the types, in the order of the .proto.
_NUMBERS: dict[int, Any] = dict(enumerate(TRITON_STRING_TO_NUMPY.values(), start=1))
_NUMBERS[1] = np.bool_

TRITONSERVER_REQUEST_FLAG_SEQUENCE_START = 1
TRITONSERVER_REQUEST_FLAG_SEQUENCE_END = 2
TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1
TRITONSERVER_REQUEST_RELEASE_ALL = 1
TRITONSERVER_REQUEST_RELEASE_RESCHEDULE = 2
TRITONSERVER_MEMORY_CPU = 0
TRITONSERVER_MEMORY_GPU = 2


class TritonModelException(Exception):  # noqa: N818  (Triton's name)
    """What Triton raises in a model."""


class TritonErrorCode(enum.IntEnum):
    """Of a TritonError."""

    UNKNOWN = 0
    INTERNAL = 1
    NOT_FOUND = 2
    INVALID_ARG = 3
    UNAVAILABLE = 4
    UNSUPPORTED = 5
    ALREADY_EXISTS = 6
    CANCELLED = 7


class TritonError:
    """What went wrong with one request."""

    UNKNOWN = TritonErrorCode.UNKNOWN
    INTERNAL = TritonErrorCode.INTERNAL
    NOT_FOUND = TritonErrorCode.NOT_FOUND
    INVALID_ARG = TritonErrorCode.INVALID_ARG
    UNAVAILABLE = TritonErrorCode.UNAVAILABLE
    UNSUPPORTED = TritonErrorCode.UNSUPPORTED
    ALREADY_EXISTS = TritonErrorCode.ALREADY_EXISTS
    CANCELLED = TritonErrorCode.CANCELLED

    def __init__(self, message: str, code: TritonErrorCode = TritonErrorCode.INTERNAL) -> None:
        self._message = str(message)
        self._code = TritonErrorCode(code)

    def code(self) -> TritonErrorCode:
        return self._code

    def message(self) -> str:
        return self._message


class Tensor:
    """A named array: numpy's, or torch's where it came by DLPack from a GPU."""

    def __init__(self, name: str, array: np.ndarray[Any, Any]) -> None:
        if not isinstance(array, np.ndarray):
            raise TypeError(f"a Tensor is made of a name and a numpy array, not of a {type(array).__name__}")
        if array.dtype.kind not in "OSU" and array.dtype.name not in DATATYPES:
            raise TritonModelException(f"NumPy dtype {array.dtype} is not supported.")
        self._name = str(name)
        self._array: Any = array.astype(object) if array.dtype.kind in "SU" else array
        self._wide = False  # bfloat16, which numpy holds as float32

    @classmethod
    def of_input(cls, name: str, array: np.ndarray[Any, Any], dtype: str) -> "Tensor":
        """`dtype`: as the manifest has it."""
        tensor = cls(name, array)
        tensor._wide = dtype == "bfloat16"
        return tensor

    def name(self) -> str:
        return self._name

    def shape(self) -> list[int]:
        return list(self._array.shape)

    def triton_dtype(self) -> str:
        if self._wide:
            return "BF16"
        name = str(self._array.dtype).removeprefix("torch.")
        return "BYTES" if name == "object" else DATATYPES[name]

    def is_cpu(self) -> bool:
        return isinstance(self._array, np.ndarray) or self._array.device.type == "cpu"

    def as_numpy(self) -> np.ndarray[Any, Any]:
        """Of bfloat16, float32 with the same values. Raises TritonModelException for what lies on a GPU."""
        if not self.is_cpu():
            raise TritonModelException("Tensor is stored in GPU and cannot be converted to NumPy.")
        array: np.ndarray[Any, Any] = self._array if isinstance(self._array, np.ndarray) else to_numpy(self._array)
        return array

    def to_dlpack(self) -> Any:
        """A DLPack capsule over the same memory; of bfloat16, a copy in torch's own."""
        return self.exported().__dlpack__()

    def __dlpack__(self, **asked: Any) -> Any:
        return self.exported().__dlpack__(**asked)

    def __dlpack_device__(self) -> tuple[int, int]:
        device: tuple[int, int] = self.exported().__dlpack_device__()
        return device

    def exported(self) -> Any:
        """What DLPack is asked of."""
        if not isinstance(self._array, np.ndarray):
            return self._array
        if self._array.dtype.kind == "O":
            raise TritonModelException("DLPack does not have support for string tensors.")
        if not self._array.flags.writeable:
            self._array = self._array.copy()  # DLPack has no word for memory that must not be written to
        if self._wide:
            import torch

            return torch.from_numpy(self._array).to(torch.bfloat16)
        return self._array

    @staticmethod
    def from_dlpack(name: str, exported: Any) -> "Tensor":
        """Of a capsule, or of what has `__dlpack__`: a torch tensor, for one."""
        torch = _torch_of(exported)
        if torch is None:
            return Tensor(name, np.from_dlpack(exported))
        array = torch.from_dlpack(exported)
        if not array.is_contiguous():
            array = array.contiguous()
        if array.device.type == "cpu" and array.dtype is not torch.bfloat16:
            return Tensor(name, array.numpy())
        tensor = Tensor(name, np.empty(0, np.float32))
        tensor._array = array
        return tensor


def _torch_of(exported: Any) -> Any:
    """torch, where numpy could not read it: a bare capsule, a GPU's memory, bfloat16."""
    device = getattr(exported, "__dlpack_device__", None)
    if device is not None and int(device()[0]) == 1 and "bfloat16" not in str(getattr(exported, "dtype", "")):
        return None
    import torch

    return torch


class Answer(Protocol):
    """Where a sender's responses go."""

    def send(self, response: "InferenceResponse | None", final: bool) -> None: ...

    def canceled(self) -> bool: ...


class InferenceRequest:
    """One prediction, with its batch dimension."""

    def __init__(
        self, inputs: Sequence[Tensor], *, item: Item, answer: Answer, outputs: Sequence[str], model: str, version: int
    ) -> None:
        self._inputs = list(inputs)
        self._item = item
        self._sender = InferenceResponseSender(answer)
        self.answered_by_sender = False
        self._outputs = list(outputs)
        self._model = model
        self._version = version

    def inputs(self) -> list[Tensor]:
        return self._inputs

    def request_id(self) -> str:
        """The prediction's id."""
        return self._item.id

    def requested_output_names(self) -> list[str]:
        """All of them: which are wanted, the device does not know."""
        return list(self._outputs)

    def model_name(self) -> str:
        return self._model

    def model_version(self) -> int:
        return self._version

    def correlation_id(self) -> int:
        return 0

    def flags(self) -> int:
        return 0

    def timeout(self) -> int:
        return 0

    def parameters(self) -> str:
        return "{}"

    def is_cancelled(self) -> bool:
        return self._sender.is_cancelled()

    def get_response_sender(self) -> "InferenceResponseSender":
        self.answered_by_sender = True
        return self._sender

    def exec(self, decoupled: bool = False) -> NoReturn:
        _no_other_models()

    def async_exec(self, decoupled: bool = False) -> NoReturn:
        _no_other_models()


class InferenceResponse:
    """What a request is answered."""

    def __init__(
        self, output_tensors: Iterable[Tensor] = (), error: TritonError | None = None, parameters: str | None = None
    ) -> None:
        if error is not None and not isinstance(error, TritonError):
            raise TypeError(f"error is a {type(error).__name__}, and should be a TritonError")
        self._outputs = list(output_tensors)
        for tensor in self._outputs:
            if not isinstance(tensor, Tensor):
                raise TypeError(f"an output is a {type(tensor).__name__}, and should be a pb_utils.Tensor")
        self._error = error
        self._parameters = parameters

    def output_tensors(self) -> list[Tensor]:
        return self._outputs

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> TritonError | None:
        return self._error

    def parameters(self) -> str:
        return self._parameters or "{}"


class InferenceResponseSender:
    """Answers one request, from any thread, also after `execute` has returned."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def send(self, response: InferenceResponse | None = None, flags: int = 0) -> None:
        """Raises TritonModelException for what a request cannot be answered."""
        if flags not in (0, TRITONSERVER_RESPONSE_COMPLETE_FINAL):
            raise TritonModelException("Unable to send response. Unsupported flag provided.")
        if response is not None and not isinstance(response, InferenceResponse):
            raise TypeError(f"a response is a {type(response).__name__}, and should be an InferenceResponse")
        if response is None and not flags:
            raise TritonModelException(
                "Inference Response object must be provided when the response flags is set to zero."
            )
        self._answer.send(response, flags == TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def is_cancelled(self) -> bool:
        """Whether nobody wants it any more."""
        return self._answer.canceled()


class PreferredMemory:
    """Where outputs of another model should lie, which is never asked here."""

    def __init__(self, memory_type: int, memory_type_id: int = 0) -> None:
        self.memory_type = memory_type
        self.memory_type_id = memory_type_id


class LogLevel(enum.IntEnum):
    """Of a line of the log."""

    INFO = 0
    WARNING = 1
    ERROR = 2
    VERBOSE = 3


_LEVELS: dict[int, int] = {
    LogLevel.INFO: logging.INFO,
    LogLevel.WARNING: logging.WARNING,
    LogLevel.ERROR: logging.ERROR,
    LogLevel.VERBOSE: logging.DEBUG,
}


class Logger:
    """The log of the device process."""

    LogLevel = LogLevel
    INFO, WARNING, ERROR, VERBOSE = LogLevel.INFO, LogLevel.WARNING, LogLevel.ERROR, LogLevel.VERBOSE

    @staticmethod
    def log(message: str, level: int = LogLevel.INFO) -> None:
        logger.log(_LEVELS[level], "%s", message)

    @staticmethod
    def log_info(message: str) -> None:
        Logger.log(message, LogLevel.INFO)

    @staticmethod
    def log_warn(message: str) -> None:
        Logger.log(message, LogLevel.WARNING)

    @staticmethod
    def log_error(message: str) -> None:
        Logger.log(message, LogLevel.ERROR)

    @staticmethod
    def log_verbose(message: str) -> None:
        Logger.log(message, LogLevel.VERBOSE)


class MetricKind(enum.IntEnum):
    """Of a family of metrics."""

    COUNTER = 0
    GAUGE = 1
    HISTOGRAM = 2


class Metric:
    """A number that the model keeps. It is known in this process only, and not exported."""

    def __init__(self, kind: MetricKind) -> None:
        self._kind = kind
        self._value = 0.0
        self._lock = threading.Lock()

    def increment(self, value: float) -> None:
        if self._kind is MetricKind.COUNTER and value < 0:
            raise TritonModelException("a counter only grows")
        self._only(MetricKind.COUNTER, MetricKind.GAUGE)
        with self._lock:
            self._value += value

    def set(self, value: float) -> None:
        self._only(MetricKind.GAUGE)
        with self._lock:
            self._value = float(value)

    def observe(self, value: float) -> None:
        self._only(MetricKind.HISTOGRAM)

    def value(self) -> float:
        self._only(MetricKind.COUNTER, MetricKind.GAUGE)
        return self._value

    def _only(self, *kinds: MetricKind) -> None:
        if self._kind not in kinds:
            raise TritonModelException(f"a metric of kind {self._kind.name} does not do that")


class MetricFamily:
    """Metrics of one name, by their labels."""

    COUNTER, GAUGE, HISTOGRAM = MetricKind.COUNTER, MetricKind.GAUGE, MetricKind.HISTOGRAM
    _kinds: ClassVar[dict[str, MetricKind]] = {}

    def __init__(self, name: str, description: str = "", kind: MetricKind = MetricKind.COUNTER) -> None:
        self.name = name
        self._kind = MetricKind(kind)
        if self._kinds.setdefault(name, self._kind) is not self._kind:
            raise TritonModelException(f"there is a metric family {name!r} of another kind")
        self._metrics: dict[tuple[tuple[str, str], ...], Metric] = {}

    def Metric(  # noqa: N802  (Triton's name)
        self, labels: Mapping[str, str] | None = None, buckets: Sequence[float] | None = None
    ) -> Metric:
        return self._metrics.setdefault(tuple(sorted((labels or {}).items())), Metric(self._kind))


class ModelConfig:
    """The configuration, as `auto_complete_config` may fill it in: only what is not said already."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = json.loads(json.dumps(config))

    def as_dict(self) -> dict[str, Any]:
        config: dict[str, Any] = self._config
        return config

    def set_max_batch_size(self, max_batch_size: int) -> None:
        """No more than what is said."""
        said = self._config["max_batch_size"]
        if said > max_batch_size:
            raise ValueError(f"max_batch_size is {said} in the configuration, and the model takes {max_batch_size}")
        if said == 0:
            self._config["max_batch_size"] = max_batch_size

    def set_dynamic_batching(self) -> None:
        self._config.setdefault("dynamic_batching", {})

    def set_model_transaction_policy(self, policy: Mapping[str, Any]) -> None:
        if self._config.setdefault("model_transaction_policy", dict(policy)) != dict(policy):
            raise ValueError("model_transaction_policy is another one in the configuration")

    def add_input(self, tensor: Mapping[str, Any]) -> None:
        self._add("input", tensor)

    def add_output(self, tensor: Mapping[str, Any]) -> None:
        self._add("output", tensor)

    def _add(self, kind: str, tensor: Mapping[str, Any]) -> None:
        for key in ("name", "data_type", "dims"):
            if key not in tensor:
                raise ValueError(f"an {kind} without {key!r}")
        for one in self._config[kind]:
            if one["name"] == tensor["name"]:
                for key in ("data_type", "dims"):
                    said = list(one[key]) if key == "dims" else one[key]
                    wanted = list(tensor[key]) if key == "dims" else tensor[key]
                    if said != wanted:
                        raise ValueError(
                            f"{kind} {one['name']!r} has the {key} {said} in the configuration, not {wanted}"
                        )
                return
        self._config[kind].append(dict(tensor))


#: The version folder, once a model is loaded.
MODEL_FOLDER: list[str] = []


def get_model_dir() -> str:
    return MODEL_FOLDER[-1]


def get_input_tensor_by_name(inference_request: InferenceRequest, name: str) -> Tensor | None:
    return next((tensor for tensor in inference_request.inputs() if tensor.name() == name), None)


def get_output_tensor_by_name(inference_response: InferenceResponse, name: str) -> Tensor | None:
    return next((tensor for tensor in inference_response.output_tensors() if tensor.name() == name), None)


def get_input_config_by_name(model_config: Mapping[str, Any], name: str) -> Any:
    return next((one for one in model_config.get("input", ()) if one["name"] == name), None)


def get_output_config_by_name(model_config: Mapping[str, Any], name: str) -> Any:
    return next((one for one in model_config.get("output", ()) if one["name"] == name), None)


def using_decoupled_model_transaction_policy(model_config: Mapping[str, Any]) -> bool:
    return bool(model_config.get("model_transaction_policy", {}).get("decoupled", False))


def triton_string_to_numpy(triton_type_string: str) -> Any:
    return TRITON_STRING_TO_NUMPY[triton_type_string]


def triton_to_numpy_type(data_type: int) -> Any:
    return _NUMBERS.get(int(data_type))


def numpy_to_triton_type(data_type: Any) -> int | None:
    wanted = np.dtype(data_type)
    if wanted.kind in "OSU":
        return 13
    return next((number for number, one in _NUMBERS.items() if np.dtype(one) == wanted), None)


def serialize_byte_tensor(input_tensor: np.ndarray[Any, Any]) -> Any:
    """Each element's length in four bytes, and its bytes; `()` of an empty array, None of one of numbers."""
    if input_tensor.size == 0:
        return ()
    if input_tensor.dtype.kind not in "OSU":
        return None
    parts = []
    for value in input_tensor.reshape(-1).tolist():
        element = value if isinstance(value, bytes) else str(value).encode()
        parts += [struct.pack("<I", len(element)), element]
    return b"".join(parts)


def deserialize_bytes_tensor(encoded_tensor: bytes) -> np.ndarray[Any, Any]:
    """The elements, one after the other."""
    elements, at = [], 0
    while at < len(encoded_tensor):
        (length,) = struct.unpack_from("<I", encoded_tensor, at)
        elements.append(bytes(encoded_tensor[at + 4 : at + 4 + length]))
        at += 4 + length
    return np.array(elements, dtype=object)


def _no_other_models(*_: Any, **__: Any) -> NoReturn:
    raise TritonModelException(
        "a model cannot call another one here (BLS): let the client call both, or load it within this model"
    )


load_model = unload_model = is_model_ready = _no_other_models
