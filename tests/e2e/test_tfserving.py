"""TF Serving's REST and gRPC protocols, as its clients speak them, and what its documentation says of the answers."""

import base64
import json
import shutil
import struct
import sysconfig
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from headway.keys import new_token
from headway.running import RunningHeadway
from headway.testing import wait_until
from tests.graphs import doubling
from tests.receiver import Receiver

ADD = """
from headway import Model

class Add(Model):
    def predict(self, inputs):
        return [{"sum": one["a"] + one["b"], "first": one["a"][0]} for one in inputs]
"""
ADDS = """
[inputs.a]
dtype = "float32"
shape = [2]
[inputs.b]
dtype = "float32"
shape = [2]
[outputs.sum]
dtype = "float32"
shape = [2]
[outputs.first]
dtype = "float32"
[versions]
policy = "all"
[aliases]
stable = 1
"""
TEXT = """
from headway import Model

class Text(Model):
    def predict(self, inputs):
        return [{"loud": one["text"].item().upper(), "raw_bytes": one["text"].item()} for one in inputs]
"""
TEXTS = """
[inputs.text]
dtype = "string"
[outputs.loud]
dtype = "string"
[outputs.raw_bytes]
dtype = "string"
"""
ANY = """
from headway import Model

class Any(Model):
    def predict(self, inputs):
        return [ValueError("it will not have this") if one == "bad" else {"got": one} for one in inputs]
"""


#: As TF Serving's documentation writes them.
MODEL_CONFIG = """
model_config_list {
  config {
    name: 'pitch'
    base_path: 'BASE/pitch'
    model_platform: "tensorflow",
    model_version_policy { specific { versions: 12 } }
    version_labels { key: 'canary' value: 12 }
  }
}
"""
BATCHING_CONFIG = """
max_batch_size { value: 3 }
batch_timeout_micros { value: 1000 }
max_enqueued_batches { value: 100 }
num_batch_threads { value: 2 }
"""


class Ports:
    """A running Headway, asked with a key that may do everything."""

    def __init__(self, up: RunningHeadway, token: str) -> None:
        self.up = up
        self.rest = up.urls["tfserving.rest"]
        self.grpc = up.urls["tfserving.grpc"].removeprefix("http://")
        self.headers = {"authorization": f"Bearer {token}"}

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return httpx.post(self.rest + path, content=content, headers=self.headers | headers, timeout=30)

    def get(self, url: str) -> httpx.Response:
        return httpx.get(url if url.startswith("http") else self.rest + url, headers=self.headers, timeout=30)

    def call(self, method: str, request: bytes, **metadata: str) -> bytes:
        """Of gRPC, in bytes both ways."""
        with grpc.insecure_channel(self.grpc) as channel:
            reply: bytes = channel.unary_unary(f"/tensorflow.serving.{method}")(
                request, timeout=30, metadata=tuple((self.headers | metadata).items())
            )
        return reply


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[Ports]:
    folder = tmp_path_factory.mktemp("tfserving")
    for name, code, toml in (("add", ADD, ADDS), ("text", TEXT, TEXTS), ("any", ANY, "")):
        for version in ("1", "2") if name == "add" else ("1",):
            (folder / "models" / name / version).mkdir(parents=True)
            (folder / "models" / name / version / "model.py").write_text(
                code.replace("+", "-" if version == "2" else "+")
            )
        (folder / "models" / name / "model.toml").write_text(toml)
    pitch = Path(sysconfig.get_path("purelib")) / "basic_pitch" / "saved_models" / "icassp_2022"
    shutil.copytree(pitch / "nmp", folder / "elsewhere" / "pitch" / "00000012")
    for name, file, as_ in (("pitch_onnx", "nmp.onnx", "model.onnx"), ("pitch_lite", "nmp.tflite", "model.tflite")):
        (folder / "models" / name / "1").mkdir(parents=True)
        shutil.copy(pitch / file, folder / "models" / name / "1" / as_)
    (folder / "model.config").write_text(MODEL_CONFIG.replace("BASE", str(folder / "elsewhere")))
    (folder / "batching.config").write_text(BATCHING_CONFIG)
    (folder / "models" / "double" / "1").mkdir(parents=True)
    (folder / "models" / "double" / "1" / "model.onnx").write_bytes(doubling())
    token = new_token()
    environ = {"HEADWAY_BOOTSTRAP_KEY": token, "HEADWAY_WEBHOOK_ALLOW": "127.0.0.0/8"}
    options = ["--redis-url", redis_url, "--dialect", "tfserving=0,0"]
    options += ["--model-config-file", str(folder / "model.config"), "--model-config-file-poll-wait-seconds", "1"]
    options += ["--batching-parameters-file", str(folder / "batching.config")]
    with RunningHeadway(folder, options=options, environ=environ) as up:
        yield Ports(up, token)


def test_rows_are_answered_as_rows_and_columns_as_columns(ports: Ports) -> None:
    rows = {"instances": [{"a": [1, 2], "b": [10, 20]}, {"a": [3, 4.5], "b": [1, 1]}]}
    predictions = [{"sum": [11.0, 22.0], "first": 1.0}, {"sum": [4.0, 5.5], "first": 3.0}]
    assert ports.post("/v1/models/add/versions/1:predict", rows).json() == {"predictions": predictions}
    columns = {"inputs": {"a": [[1, 2], [3, 4.5]], "b": [[10, 20], [1, 1]]}, "signature_name": "serving_default"}
    outputs = {"sum": [[11.0, 22.0], [4.0, 5.5]], "first": [1.0, 3.0]}
    reply = ports.post("/v1/models/add/labels/stable:predict", columns)
    assert (reply.json(), reply.headers["content-type"]) == ({"outputs": outputs}, "application/json")
    latest = ports.post("/V1/Models/add:Predict", rows).json()["predictions"][0]["sum"]
    assert latest == [-9.0, -18.0]  # of version 2


def test_one_input_needs_no_name_and_one_output_has_none(ports: Ports) -> None:
    reply = ports.post("/v1/models/double:predict", {"instances": [[1.0, 2.5], [3, 4]]})
    assert reply.text == '{\n    "predictions": [[2.0, 5.0], [6.0, 8.0]\n    ]\n}'
    assert ports.post("/v1/models/double:predict", {"inputs": [[1.0, 2.5]]}).json() == {"outputs": [[2.0, 5.0]]}
    reply = ports.post("/v1/models/double:predict", b'{"instances": [[NaN, Infinity]]}')
    assert (reply.status_code, "[[NaN, Infinity]" in reply.text) == (200, True)


def test_a_saved_model_from_where_model_config_says_agrees_with_its_onnx_and_its_tflite(ports: Ports) -> None:
    sound = np.random.default_rng(0).standard_normal((2, 43844, 1)).astype(np.float32) / 4

    def asked(path: str, name: str) -> dict[str, Any]:
        reply = ports.post(f"/v1/models/{path}:predict", {"inputs": {name: sound.tolist()}})
        assert reply.status_code == 200, reply.text[:500]
        return {key: np.array(value) for key, value in reply.json()["outputs"].items()}

    notes = asked("pitch/labels/canary", "input_2")
    assert {name: array.shape for name, array in notes.items()} == {
        "note": (2, 172, 88), "onset": (2, 172, 88), "contour": (2, 172, 264)
    }  # fmt: skip
    onnx = asked("pitch_onnx", "serving_default_input_2:0")
    same = sorted(onnx.values(), key=lambda array: array.shape[-1])
    for array in notes.values():
        assert min(np.abs(array - one).max() for one in same if one.shape == array.shape) < 1e-5
    lite = asked("pitch_lite", "input_2")
    assert all(np.abs(lite[name] - array).max() < 1e-5 for name, array in notes.items())
    metadata = ports.get("/v1/models/pitch/versions/12/metadata").json()["metadata"]["signature_def"]["signature_def"]
    assert metadata["serving_default"]["inputs"]["input_2"]["name"] == "serving_default_input_2:0"
    large = ports.post("/v1/models/pitch:predict", {"inputs": np.zeros((4, 43844, 1)).tolist()})
    assert large.json() == {"error": "Task size 4 is larger than maximum input batch size 3"}


def test_another_model_config_replaces_the_one_before(ports: Ports) -> None:
    file = ports.up.folder / "model.config"
    before = file.read_text()
    file.write_text("")
    try:
        wait_until(lambda: ports.get("/v1/models/pitch").json() != AVAILABLE_12, 20, "the model to go")
    finally:
        file.write_text(before)
    wait_until(lambda: ports.get("/v1/models/pitch").json() == AVAILABLE_12, 30, "the model to be served again")


WELL = {"error_code": "OK", "error_message": ""}
AVAILABLE_12 = {"model_version_status": [{"version": "12", "state": "AVAILABLE", "status": WELL}]}


def test_strings_come_as_text_and_bytes_as_base64(ports: Ports) -> None:
    b64 = base64.b64encode("grüße".encode()).decode()
    reply = ports.post("/v1/models/text:predict", {"instances": ["hi", {"b64": b64}]}).json()
    assert [one["loud"] for one in reply["predictions"]] == ["HI", "GRÜSSE"]
    assert reply["predictions"][1]["raw_bytes"] == {"b64": b64}


def test_a_model_that_declares_nothing_takes_any_json(ports: Ports) -> None:
    reply = ports.post("/v1/models/any:predict", {"instances": [{"x": 1}, [2, None], "three"]})
    assert reply.json() == {"predictions": [{"got": {"x": 1}}, {"got": [2, None]}, {"got": "three"}]}
    assert ports.post("/v1/models/any:predict", {"inputs": [1]}).json() == {"outputs": [{"got": 1}]}
    reply = ports.post("/v1/models/any:predict", {"instances": ["bad"]})
    assert (reply.status_code, "it will not have this" in reply.json()["error"]) == (500, True)


#: As TF Serving's RESTful API documentation and the sources of its JSON reader have them.
REFUSED = [
    ("/v1/models/nobody:predict", {"instances": [1]}, 404, "Servable not found for request: Latest(nobody)"),
    ("/v1/models/add/versions/7:predict", {"instances": [1]}, 404, "Servable not found for request: Specific(add, 7)"),
    ("/v1/models/add/labels/gold:predict", {"instances": [1]}, 400, "Unrecognized servable version label: gold"),
    ("/v1/models/add:explain", {}, 400, "Malformed request: POST /v1/models/add:explain"),
    ("/v1/models/add/versions/one:predict", {}, 400, "Malformed request: POST /v1/models/add/versions/one:predict"),
    ("/v1/models/double:predict", b"", 400, "JSON Parse error: The document is empty"),
    ("/v1/models/double:predict", b"{", 400, "JSON Parse error: Missing a name for object member. at offset: 1"),
    ("/v1/models/double:predict", [1], 400, "JSON Value: [1] Is not object"),
    ("/v1/models/double:predict", {}, 400, "Missing 'inputs' or 'instances' key"),
    ("/v1/models/double:predict", {"instances": [], "inputs": []}, 400, "expecting only one of 'inputs' or"),
    ("/v1/models/double:predict", {"instances": 1}, 400, "Expecting 'instances' to be an list/array"),
    ("/v1/models/double:predict", {"instances": []}, 400, "No values in 'instances' array"),
    ("/v1/models/double:predict", {"instances": [[1, 2], [3]]}, 400, "Expecting tensor size: 2 but got: 1"),
    ("/v1/models/double:predict", {"instances": [["a", "b"]]}, 400, 'Type: String is not of expected type: float'),
    ("/v1/models/double:predict", {"instances": [[True, 1]]}, 400, "Type: True is not of expected type: float"),
    ("/v1/models/double:predict", {"instances": [[1, 2, 3]]}, 400, "has the shape [3]"),
    ("/v1/models/double:predict", {"instances": [[1, 2]], "signature_name": "s"}, 400,
     'Serving signature name: "s" not found in signature def'),
    ("/v1/models/double:predict", {"instances": [[1, 2]], "signature_name": 1}, 400, "must be a string value"),
    ("/v1/models/add:predict", {"instances": [[1, 2]]}, 400, "expecting list of objects as multiple input tensors"),
    ("/v1/models/add:predict", {"instances": [{"a": [1, 2]}]}, 400, "keys must be equal to: a,b"),
    ("/v1/models/add:predict", {"inputs": {"a": [[1, 2]]}}, 400, "Missing named input: b in 'inputs' object."),
    ("/v1/models/add:predict", {"inputs": {"a": [[1, 2]], "b": [[1, 2], [3, 4]]}}, 400, "equal 0th dimension size"),
    ("/v1/models/text:predict", {"instances": [{"b64": "*"}]}, 400, "Unable to base64 decode"),
    ("/v1/models/add:classify", {"examples": [{}]}, 400,
     "classification signature method_name to be tensorflow/serving/classify. Was: tensorflow/serving/predict"),
    ("/v1/models/add:regress", {"examples": [{}]}, 400, "Expected regression signature method_name"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "status", "said"), REFUSED)
def test_what_is_refused_is_refused_in_tf_servings_words(
    ports: Ports, path: str, body: Any, status: int, said: str
) -> None:
    reply = ports.post(path, body)
    assert (reply.status_code, reply.headers["content-type"], list(reply.json())) == (
        status, "application/json", ["error"]
    )  # fmt: skip
    assert said in reply.json()["error"]


def test_status_and_metadata_say_what_is_served(ports: Ports) -> None:
    both = [{"version": version, "state": "AVAILABLE", "status": WELL} for version in ("2", "1")]
    assert ports.get("/v1/models/add").json() == {"model_version_status": both}
    assert ports.get("/v1/models/add/labels/stable").json() == {"model_version_status": both[1:]}
    for path, said in (
        ("nobody", "Could not find any versions of model nobody"),
        ("add/versions/7", "Could not find version 7 of model add"),
    ):
        reply = ports.get(f"/v1/models/{path}")
        assert (reply.status_code, reply.json()) == (404, {"error": said})
    metadata = ports.get("/v1/models/add/versions/1/metadata").json()
    assert metadata["model_spec"] == {"name": "add", "signature_name": "", "version": "1"}
    signature = metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["method_name"] == "tensorflow/serving/predict"
    assert signature["inputs"]["a"] == {
        "dtype": "DT_FLOAT",
        "tensor_shape": {"dim": [{"size": "-1", "name": ""}, {"size": "2", "name": ""}], "unknown_rank": False},
        "name": "a:0",
    }


def test_a_request_becomes_a_job_and_its_webhook_is_called(ports: Ports) -> None:
    receiver = Receiver()
    try:
        headers = {"X-Headway-Async": "true", "X-Headway-Webhook": receiver.url}
        accepted = ports.post("/v1/models/double:predict", {"instances": [[1, 2]]}, **headers)
        assert accepted.status_code == 202
        wait_until(lambda: len(receiver.got) == 1, 20, "the webhook")
        assert ports.get(accepted.headers["location"]).json()["status"] == "succeeded"
    finally:
        receiver.close()


def test_requests_of_many_callers_share_micro_batches(ports: Ports) -> None:
    def ask(number: int) -> Any:
        return ports.post("/v1/models/double:predict", {"instances": [[number, 0]]}).json()["predictions"]

    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(ask, range(64))) == [[[2.0 * number, 0.0]] for number in range(64)]


# gRPC. The messages are written here by hand, field by field, so that they say what ours should read.


def field(number: int, value: bytes | str | int) -> bytes:
    """Of protobuf: a varint, or what has a length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(value: int) -> bytes:
    made = bytearray()
    while value > 127:
        made.append(value & 127 | 128)
        value >>= 7
    return bytes([*made, value])


def spec(name: str, *more: bytes) -> bytes:
    return field(1, field(1, name) + b"".join(more))


def tensor(shape: list[int], *values: bytes, dtype: int = 1) -> bytes:
    lengths = b"".join(field(2, field(1, length)) for length in shape)
    return field(1, dtype) + field(2, lengths) + b"".join(values)


def of_input(name: str, described: bytes) -> bytes:
    return field(2, field(1, name) + field(2, described))


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


X = of_input("x", tensor([1, 2], field(4, floats(1.5, 2))))


def test_predict_is_answered_over_grpc_however_its_tensors_come(ports: Ports) -> None:
    doubled = floats(3, 4)
    assert doubled in ports.call("PredictionService/Predict", spec("double") + X)
    typed = of_input("x", tensor([1, 2], field(5, floats(1.5, 2))))
    assert doubled in ports.call("PredictionService/Predict", spec("double", field(2, field(1, 1))) + typed)
    repeated = of_input(
        "x", tensor([1, 2], field(5, floats(1.5)))
    )  # its last element stands for those that are missing
    assert floats(3, 3) in ports.call("PredictionService/Predict", spec("double") + repeated)
    both = of_input("a", tensor([1, 2], field(4, floats(1, 2)))) + of_input("b", tensor([1, 2], field(4, floats(3, 4))))
    labelled = spec("add", field(4, "stable"), field(3, "serving_default"))
    reply = ports.call("PredictionService/Predict", labelled + both + field(3, "sum"))
    assert (floats(4, 6) in reply, b"first" in reply, b"serving_default" in reply) == (True, False, True)
    text = of_input("text", tensor([2], field(8, "hi"), field(8, "you"), dtype=7))
    assert b"YOU" in ports.call("PredictionService/Predict", spec("text") + text)


@pytest.mark.parametrize(
    ("method", "request_", "code", "said"),
    [
        ("Predict", b"", "INVALID_ARGUMENT", "Missing ModelSpec"),
        ("Predict", spec("nobody"), "NOT_FOUND", r"Servable not found for request: Latest\(nobody\)"),
        ("Predict", spec("add", field(2, field(1, 7))), "NOT_FOUND", r"Specific\(add, 7\)"),
        ("Predict", spec("add", field(4, "gold")), "INVALID_ARGUMENT", "Unrecognized servable version label: gold"),
        ("Predict", spec("double", field(3, "s")) + X, "INVALID_ARGUMENT", 'name: "s" not found in signature def'),
        ("Predict", spec("double"), "INVALID_ARGUMENT", r"does not match signature: 0!=1 .* required: \{x\}"),
        ("Predict", spec("double") + X + field(3, "z"), "INVALID_ARGUMENT", "output tensor alias not found in"),
        ("Predict", spec("double") + of_input("x", tensor([1, 2], field(4, b"1"))), "INVALID_ARGUMENT", "1 bytes of"),
        ("Predict", spec("double") + of_input("x", tensor([1, 2], dtype=8)), "INVALID_ARGUMENT", "has the dtype 8"),
        ("Predict", spec("double") + of_input("x", tensor([2], field(5, floats(1)))), "INVALID_ARGUMENT", r"\[2\]"),
        ("Classify", spec("double"), "INVALID_ARGUMENT", "Expected classification signature method_name"),
        ("Regress", spec("double"), "INVALID_ARGUMENT", "Expected regression signature method_name"),
        ("MultiInference", b"", "UNIMPLEMENTED", "MultiInference"),
        ("GetModelMetadata", spec("double"), "INVALID_ARGUMENT", "must specify at least one metadata_field"),
        ("GetModelMetadata", spec("double") + field(2, "x"), "INVALID_ARGUMENT", "Metadata field x is not supported"),
    ],
)  # fmt: skip
def test_what_is_refused_over_grpc_has_tf_servings_codes(
    ports: Ports, method: str, request_: bytes, code: str, said: str
) -> None:
    with pytest.raises(grpc.RpcError, match=said) as refused:
        ports.call(f"PredictionService/{method}", request_)
    assert refused.value.code().name == code


def test_status_and_metadata_are_told_over_grpc(ports: Ports) -> None:
    available = field(1, field(1, 1) + field(2, 30) + field(3, b""))
    assert ports.call("ModelService/GetModelStatus", spec("double")) == available
    reply = ports.call("PredictionService/GetModelMetadata", spec("double") + field(2, "signature_def"))
    assert b"type.googleapis.com/tensorflow.serving.SignatureDefMap" in reply
    assert field(1, "x:0") + field(2, 1) in reply
    with pytest.raises(grpc.RpcError, match="operator's folder"):
        ports.call("ModelService/HandleReloadConfigRequest", b"")


def test_a_call_becomes_a_job_over_grpc(ports: Ports) -> None:
    reply = ports.call("PredictionService/Predict", spec("double") + X, **{"x-headway-async": "true"})
    start = reply.index(b"http://")
    url = reply[start:].split(b"\x12")[0].split(b"\x1a")[0].decode()[: len(f"{ports.up.data_url}/v1/predictions/") + 36]
    wait_until(lambda: ports.get(url).json()["status"] == "succeeded", 20, "the job")


def test_nobody_gets_in_without_a_key(ports: Ports) -> None:
    for path in ("/v1/models/add", "/v1/models/add/metadata", "/v1/nothing"):
        assert httpx.get(ports.rest + path).status_code == 401
    with grpc.insecure_channel(ports.grpc) as channel, pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary("/tensorflow.serving.PredictionService/Predict")(spec("double") + X, timeout=10)
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
