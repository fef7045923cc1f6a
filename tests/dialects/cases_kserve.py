"""What is asked of KServe's model server, and of ours in its dialect: requests that are good, and that are not."""

import struct
from typing import Any

from tests.dialects.exchanges import Body, Case, Request
from tests.dialects.folders import SLOW

_JSON = {"Content-Type": "application/json"}
A, B = [5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]


def get(name: str, path: str, *, slow: bool = False) -> Case:
    return Case(name, [Request(path)], slow=slow or _is_slow(path))


def post(name: str, path: str, body: Body = None, **headers: str) -> Case:
    told = {key.replace("_", "-"): value for key, value in headers.items()} or _JSON
    return Case(name, [Request(path, "POST", body, told)], slow=_is_slow(path))


def _is_slow(path: str) -> bool:
    return any(f"/models/{model}" in path for model in SLOW["kserve"])


def predict(name: str, model: str, payload: Any, verb: str = "predict") -> Case:
    return post(name, f"/v1/models/{model}:{verb}", {"json": payload})


def infer(name: str, model: str, *inputs: dict[str, Any], version: str = "", **more: Any) -> Case:
    path = f"/v2/models/{model}" + (f"/versions/{version}" if version else "") + "/infer"
    return post(name, path, {"json": {"inputs": list(inputs)} | more})


def tensor(datatype: str, shape: list[int], data: Any = None, **more: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"name": "x", "datatype": datatype, "shape": shape}
    return made | ({} if data is None else {"data": data}) | more


X = tensor("FP32", [1, 4], A)
FLAT = dict(zip("abcd", A, strict=True))
NAMED = {name: [value] for name, value in FLAT.items()}
COLUMNS = [tensor("FP32", [2], [value, value], name=name) for name, value in FLAT.items()]
X2 = tensor("FP64", [2, 4], [*A, *B])
RAW = struct.pack("<4f", *A)
SIZED = tensor("FP32", [1, 4], parameters={"binary_data_size": 16})
EVENT = {
    "specversion": "1.0",
    "id": "36077800-0c23-4f38-a0b4-01f4369f670a",
    "source": "https://example.com/somebody",
    "type": "com.example.sampletype1",
    "time": "2026-11-24T05:00:00+00:00",
}
BINARY = {f"ce_{key}": value for key, value in EVENT.items() if key != "time"}

CASES: list[Case] = [
    # The server and its models
    get("alive", "/"),
    get("all models", "/v1/models", slow=True),
    get("a model", "/v1/models/iris"),
    get("an unknown model", "/v1/models/nobody"),
    get("a model's name with a colon", "/v1/models/iris:"),
    get("live", "/v2/health/live"),
    get("ready", "/v2/health/ready"),
    get("server metadata", "/v2"),
    get("all models of the second protocol", "/v2/models", slow=True),
    get("model metadata", "/v2/models/iris"),
    get("metadata of an unknown model", "/v2/models/nobody"),
    get("metadata of a version", "/v2/models/iris/versions/1"),
    get("model ready", "/v2/models/iris/ready"),
    get("an unknown model ready", "/v2/models/nobody/ready"),
    get("an unknown path", "/nowhere"),
    get("no health at this path", "/healthz"),
    get("predict by GET", "/v1/models/iris:predict"),
    post("models by POST", "/v1/models"),
    # The first protocol
    predict("one instance", "iris", {"instances": [A]}),
    predict("two instances", "iris", {"instances": [A, B]}),
    predict("inputs instead of instances", "iris", {"inputs": [A, B]}),
    predict("integers", "iris", {"instances": [[5, 3, 1, 0]]}),
    predict("more members than are known", "iris", {"instances": [A], "signature_name": "x", "id": "7"}),
    predict("probabilities", "proba", {"instances": [A, B]}),
    predict("a regressor", "sums", {"instances": [[1, 2], [3.5, 4]]}),
    predict("texts", "words", {"instances": ["good good", "bad"]}),
    predict("rows of named values", "iris", {"instances": [NAMED, NAMED]}),
    predict("a list of rows of named values", "iris", {"instances": [[FLAT, FLAT]]}),
    predict("a row of named scalars", "iris", {"instances": [FLAT]}),
    predict("no instances", "iris", {}),
    predict("empty instances", "iris", {"instances": []}),
    predict("instances that are no list", "iris", {"instances": "x"}),
    predict("an instance that is too short", "iris", {"instances": [[5.1, 3.5, 1.4]]}),
    predict("instances of different lengths", "iris", {"instances": [A, [1, 2]]}),
    predict("a flat instance", "iris", {"instances": A}),
    predict("a string among numbers", "iris", {"instances": [[5.1, "x", 1.4, 0.2]]}),
    predict("null among numbers", "iris", {"instances": [[5.1, None, 1.4, 0.2]]}),
    predict("numbers for texts", "words", {"instances": [[1, 2]]}),
    predict("an unknown model's prediction", "nobody", {"instances": [A]}),
    predict("an explanation of who has none", "iris", {"instances": [A]}, "explain"),
    predict("an explanation of an unknown model", "nobody", {"instances": [A]}, "explain"),
    predict("a list", "iris", [A]),
    post("broken JSON", "/v1/models/iris:predict", {"text": '{"instances": ['}),
    post("NaN", "/v1/models/iris:predict", {"text": '{"instances": [[NaN, 1, 2, 3]]}'}),
    post("an empty body", "/v1/models/iris:predict"),
    post("JSON as a form", "/v1/models/iris:predict", {"json": {"instances": [A]}},
         Content_Type="application/x-www-form-urlencoded"),
    post("JSON as bytes", "/v1/models/iris:predict", {"json": {"instances": [A]}},
         Content_Type="application/octet-stream"),
    # Events
    post("a structured event", "/v1/models/iris:predict", {"json": EVENT | {"data": {"instances": [A]}}},
         Content_Type="application/cloudevents+json"),
    post("a structured event as JSON", "/v1/models/iris:predict", {"json": EVENT | {"data": {"instances": [A]}}}),
    post("a structured event without its type", "/v1/models/iris:predict",
         {"json": {key: value for key, value in EVENT.items() if key != "type"} | {"data": {"instances": [A]}}},
         Content_Type="application/cloudevents+json"),
    post("a binary event", "/v1/models/iris:predict", {"json": {"instances": [A]}},
         Content_Type="application/json", **BINARY),
    post("a binary event of another version", "/v1/models/iris:predict", {"json": {"instances": [A]}},
         Content_Type="application/json", **BINARY | {"ce_specversion": "9.9"}),
    post("a binary event that is no JSON", "/v1/models/iris:predict", {"text": "{"},
         Content_Type="application/json", **BINARY),
    post("a binary event that lacks its id", "/v1/models/iris:predict", {"json": {"instances": [A]}},
         Content_Type="application/json", **{key: value for key, value in BINARY.items() if key != "ce_id"}),
    # The second protocol
    infer("infer", "iris", X),
    infer("infer with an id", "iris", X, id="seven"),
    infer("infer two rows", "iris", X2),
    infer("infer nested rows", "iris", tensor("FP32", [2, 4], [A, B])),
    infer("infer probabilities", "proba", X2),
    infer("infer texts", "words", tensor("BYTES", [2], ["good good", "bad"])),
    infer("infer integers", "sums", tensor("INT32", [1, 2], [1, 2])),
    infer("infer columns", "iris", *COLUMNS, parameters={"content_type": "pd"}),
    infer("infer of two inputs", "iris", X, tensor("FP32", [1, 4], B)),
    infer("infer with its output named", "iris", X, outputs=[{"name": "output-0"}]),
    infer("infer with an unknown output", "iris", X, outputs=[{"name": "y"}]),
    infer("infer of a version", "iris", X, version="1"),
    infer("infer of an unknown model", "nobody", X),
    infer("no inputs", "iris"),
    infer("an input without data", "iris", tensor("FP32", [1, 4])),
    infer("an input whose shape is text", "iris", tensor("FP32", ["x", 4], A)),  # type: ignore[list-item]
    infer("an unknown datatype", "iris", tensor("FP31", [1, 4], A)),
    infer("fewer numbers than the shape says", "iris", tensor("FP32", [2, 4], A)),
    infer("a row that is too short", "iris", tensor("FP32", [1, 3], A[:3])),
    infer("FP16 as JSON", "iris", tensor("FP16", [1, 4], A)),
    infer("an id that is a number", "iris", X, id=7),
    post("inference without inputs", "/v2/models/iris/infer", {"json": {"id": "7"}}),
    post("broken JSON of an inference", "/v2/models/iris/infer", {"text": '{"inputs": ['}),
    post("an empty inference", "/v2/models/iris/infer"),
    post("an inference as a form", "/v2/models/iris/infer", {"json": {"inputs": [X]}},
         Content_Type="application/x-www-form-urlencoded"),
    post("binary in", "/v2/models/iris/infer", {"json": {"inputs": [SIZED]}, "hex": RAW.hex(" ", 4)},
         Content_Type="application/octet-stream"),
    post("binary in and out", "/v2/models/iris/infer",
         {"json": {"inputs": [SIZED], "parameters": {"binary_data_output": True}}, "hex": RAW.hex(" ", 4)},
         Content_Type="application/octet-stream"),
    infer("binary out", "iris", X, outputs=[{"name": "output-0", "parameters": {"binary_data": True}}]),
    # Loading
    post("unload", "/v2/repository/models/sums/unload"),
    get("an unloaded model", "/v1/models/sums"),
    predict("a prediction of an unloaded model", "sums", {"instances": [[1, 2]]}),
    post("unload again", "/v2/repository/models/sums/unload"),
    post("load of an unknown model", "/v2/repository/models/nobody/load"),
]  # fmt: skip
