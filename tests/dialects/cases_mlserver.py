"""What is asked of MLServer, and of ours in its dialect: requests that are good, and that are not."""

import struct
from typing import Any

from tests.dialects.exchanges import Body, Case, Request
from tests.dialects.folders import SLOW

_JSON = {"Content-Type": "application/json"}
A, B = [5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]


def get(name: str, path: str, *, slow: bool = False) -> Case:
    return Case(name, [Request(path)], slow=slow or _is_slow(path))


def post(name: str, path: str, body: Body = None, *, slow: bool = False, **headers: str) -> Case:
    told = {key.replace("_", "-"): value for key, value in headers.items()} or _JSON
    return Case(name, [Request(path, "POST", body, told)], slow=slow or _is_slow(path))


def _is_slow(path: str) -> bool:
    return any(f"/models/{model}" in path for model in SLOW["mlserver"])


def infer(name: str, model: str, *inputs: dict[str, Any], version: str = "", **more: Any) -> Case:
    path = f"/v2/models/{model}" + (f"/versions/{version}" if version else "") + "/infer"
    return post(name, path, {"json": {"inputs": list(inputs)} | more})


def tensor(datatype: str, shape: list[Any], data: Any = None, name: str = "x", kind: str = "") -> dict[str, Any]:
    made: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
    made |= {} if data is None else {"data": data}
    return made | ({"parameters": {"content_type": kind}} if kind else {})


X = tensor("FP32", [1, 4], A)
COLUMNS = [tensor("FP32", [2, 1], [value, value], name) for name, value in zip("abcd", A, strict=True)]
ARRAYS = [tensor("FP32", [2, 1], [value, value], name, "np") for name, value in zip("abcd", A, strict=True)]
X2 = tensor("FP64", [2, 4], [*A, *B])


def outputs(*names: str) -> list[dict[str, str]]:
    return [{"name": name} for name in names]


CASES: list[Case] = [
    # The server and its models
    get("server metadata", "/v2"),
    get("live", "/v2/health/live"),
    get("ready", "/v2/health/ready"),
    get("all models", "/v2/models"),
    get("model metadata", "/v2/models/petals"),
    get("metadata of a version", "/v2/models/petals/versions/v1.0"),
    get("metadata of an unknown version", "/v2/models/petals/versions/9"),
    get("metadata with declared tensors", "/v2/models/declared"),
    get("metadata with a content type", "/v2/models/moods"),
    get("metadata of two versions", "/v2/models/versions"),
    get("metadata of an unknown model", "/v2/models/nobody"),
    get("model ready", "/v2/models/petals/ready"),
    get("version ready", "/v2/models/versions/versions/1/ready"),
    get("an unknown model ready", "/v2/models/nobody/ready"),
    get("an unknown path", "/nowhere"),
    post("metadata by POST", "/v2/models/petals"),
    post("index", "/v2/repository/index", {"json": {}}, slow=True),
    post("index of what is ready", "/v2/repository/index", {"json": {"ready": True}}, slow=True),
    post("index without a body", "/v2/repository/index"),
    # Runtimes
    infer("infer", "petals", X),
    infer("infer with an id", "petals", X, id="seven"),
    infer("infer two rows", "petals", X2),
    infer("infer nested rows", "petals", tensor("FP32", [2, 4], [A, B])),
    infer("infer of a version", "versions", X, version="1"),
    infer("infer of the latest version", "versions", X),
    infer("infer of an unknown version", "versions", X, version="9"),
    infer("infer of an unknown model", "nobody", X),
    infer("predict", "petals", X2, outputs=outputs("predict")),
    infer("probabilities", "petals", X2, outputs=outputs("predict_proba")),
    infer("both outputs", "petals", X2, outputs=outputs("predict", "predict_proba")),
    infer("probabilities by the settings", "declared", X2),
    infer("an unknown output", "petals", X, outputs=outputs("scores")),
    infer("probabilities of a regressor", "totals", tensor("FP32", [1, 2], [1, 2]), outputs=outputs("predict_proba")),
    infer("a regressor", "totals", tensor("FP32", [2, 2], [1, 2, 3.5, 4])),
    infer("integers", "totals", tensor("INT64", [1, 2], [1, 2])),
    infer("texts by the model's content type", "moods", tensor("BYTES", [2], ["good good", "bad"])),
    infer("texts by the input's content type", "moods", tensor("BYTES", [2, 1], ["good", "bad"], kind="str")),
    infer("a content type of the request", "petals", X, parameters={"content_type": "np"}),
    infer("an unknown content type", "petals", tensor("FP32", [1, 4], A, kind="nothing")),
    infer("parameters that are nobody's", "petals", X, parameters={"mine": 1}),
    infer("columns", "petals", *COLUMNS, parameters={"content_type": "pd"}),
    infer("columns of np", "petals", *ARRAYS, parameters={"content_type": "pd"}),
    infer("no inputs", "petals"),
    infer("two inputs", "petals", X, tensor("FP32", [1, 4], B, name="z")),
    infer("fewer numbers than the shape says", "petals", tensor("FP32", [2, 4], A)),
    infer("a row that is too short", "petals", tensor("FP32", [1, 3], A[:3])),
    infer("a string among numbers", "petals", tensor("FP32", [1, 4], [5.1, "x", 1.4, 0.2])),
    infer("an output's content type", "petals", X,
          outputs=[{"name": "predict", "parameters": {"content_type": "np"}}]),
    # What is checked
    infer("an input without data", "petals", tensor("FP32", [1, 4])),
    infer("a shape that is text", "petals", tensor("FP32", ["x", 4], A)),
    infer("an unknown datatype", "petals", tensor("FP31", [1, 4], A)),
    infer("an id that is a number", "petals", X, id=7),
    post("inference without inputs", "/v2/models/petals/infer", {"json": {"id": "7"}}),
    post("a list", "/v2/models/petals/infer", {"json": [1]}),
    post("broken JSON", "/v2/models/petals/infer", {"text": '{"inputs": ['}),
    post("NaN", "/v2/models/petals/infer",
         {"text": '{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [NaN]}]}'}),
    post("an empty body", "/v2/models/petals/infer"),
    post("an inference as a form", "/v2/models/petals/infer", {"json": {"inputs": [X]}},
         Content_Type="application/x-www-form-urlencoded"),
    post("binary tensors", "/v2/models/petals/infer",
         {"json": {"inputs": [tensor("FP32", [1, 4]) | {"parameters": {"binary_data_size": 16}}]},
          "hex": struct.pack("<4f", *A).hex(" ", 4)},
         Content_Type="application/octet-stream"),
    # A class of its own, and content types
    infer("a custom model", "parrot", tensor("FP32", [1, 2], [1, 2.5])),
    infer("a vector", "parrot", tensor("INT32", [3], [1, 2, 3])),
    infer("numbers by np", "parrot", tensor("UINT8", [2, 2], [1, 2, 3, 255], kind="np")),
    infer("booleans", "parrot", tensor("BOOL", [2], [True, False])),
    infer("texts", "parrot", tensor("BYTES", [2], ["a", "é"], kind="str")),
    infer("texts as an array", "parrot", tensor("BYTES", [2], ["a", "b"], kind="np")),
    infer("one text that is no list", "parrot", tensor("BYTES", [1], "alone", kind="str")),
    infer("base64", "parrot", tensor("BYTES", [2, 1], ["AAEC", "//8="], kind="base64")),
    infer("no base64", "parrot", tensor("BYTES", [1, 1], ["!"], kind="base64")),
    infer("times", "parrot", tensor("BYTES", [2, 1], ["2026-11-24T05:00:00", "2026-01-01"], kind="datetime")),
    infer("no time", "parrot", tensor("BYTES", [1, 1], ["yesterday"], kind="datetime")),
    infer("what a default codec makes of it", "parrot", tensor("FP64", [1, 1], [2], name="what")),
    infer("what strings are", "parrot", tensor("BYTES", [2], ["a", "b"], name="what", kind="str")),
    infer("several inputs", "parrot", tensor("FP32", [1], [1]), tensor("BYTES", [1], ["b"], name="y", kind="str")),
    infer("an error with a status", "parrot", tensor("FP32", [1], [1], name="refuse")),
    infer("an exception", "parrot", tensor("FP32", [1], [1], name="fail")),
    # Loading
    post("unload", "/v2/repository/models/totals/unload"),
    get("metadata of an unloaded model", "/v2/models/totals"),
    infer("infer of an unloaded model", "totals", tensor("FP32", [1, 2], [1, 2])),
    post("unload of an unknown model", "/v2/repository/models/nobody/unload"),
    post("load", "/v2/repository/models/totals/load"),
    infer("infer of a model that was loaded again", "totals", tensor("FP32", [1, 2], [1, 2])),
    post("load of an unknown model", "/v2/repository/models/nobody/load"),
]  # fmt: skip
