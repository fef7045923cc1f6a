"""Triton's own Python clients, as they come, at the ports of the Open Inference Protocol; all of them with a key."""

import asyncio
import contextlib
import os
import queue
import signal
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from headway.keys import new_token
from headway.running import RunningHeadway
from headway.testing import wait_until
from tests.graphs import doubling
from tests.receiver import Receiver

ADD = """
from headway import Model

class Add(Model):
    def predict(self, inputs):
        return [{"sum": one["a"] + one["b"]} for one in inputs]
"""
GATED = """
import time
from pathlib import Path
from headway import Model

class Gated(Model):
    def predict(self, inputs):
        while not Path("GATE").exists():
            time.sleep(0.01)
        return [{"sum": one["a"] + one["b"]} for one in inputs]
"""
ADDS = """
[inputs.a]
dtype = "float32"
shape = [4]
[inputs.b]
dtype = "float32"
shape = [4]
[outputs.sum]
dtype = "float32"
shape = [4]
"""
MODELS = {
    "add": (ADD, ADDS),
    "gated": (GATED, ADDS),  # computes when its gate is open
    "shout": (
        """
from headway import Model

class Shout(Model):
    def predict(self, inputs):
        return [{"loud": one["text"].item().upper()} for one in inputs]
""",
        """
[inputs.text]
dtype = "string"
[outputs.loud]
dtype = "string"
""",
    ),
    "any": (
        """
from headway import Model

class Any(Model):
    def predict(self, inputs):
        return [ValueError("it will not have this") if one == "bad" else {"got": one} for one in inputs]
""",
        "",
    ),
}
#: The sum of both, and then with `b` again: of models of our own, whose rows are predictions each.
ENSEMBLE = """
platform: "ensemble"
max_batch_size: 4
input { name: "A" data_type: TYPE_FP32 dims: 4 }
input { name: "B" data_type: TYPE_FP32 dims: 4 }
output { name: "TWICE" data_type: TYPE_FP32 dims: 4 }
ensemble_scheduling {
  step {
    model_name: "add" model_version: -1
    input_map { key: "a" value: "A" } input_map { key: "b" value: "B" } output_map { key: "sum" value: "once" }
  }
  step {
    model_name: "MODEL" model_version: 1
    input_map { key: "a" value: "once" } input_map { key: "b" value: "B" } output_map { key: "sum" value: "TWICE" }
  }
}
"""
#: Answers three times, but for the first attempt, which ends with its process after the first of them.
TICKS = """
import os
from pathlib import Path
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            start = pb_utils.get_input_tensor_by_name(request, "START").as_numpy()[0]
            for tick in range(3):
                changed = start < 0 and Path("DIED").exists()
                value = np.array([start - 1 if changed else start + tick], np.float32)
                sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("TICK", value)]))
                if not Path("DIED").exists():
                    while not Path("SEEN").exists():
                        pass
                    Path("DIED").touch()
                    os._exit(1)
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
#: Says something, and then fails.
STUMBLES = """
from pathlib import Path
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            Path("BEGUN").touch()
            while not Path("SEEN").exists():
                pass
            sender = request.get_response_sender()
            start = pb_utils.get_input_tensor_by_name(request, "START")
            tick = pb_utils.Tensor("TICK", start.as_numpy())
            sender.send(pb_utils.InferenceResponse([tick]))
            error = pb_utils.TritonError("a stone")
            sender.send(pb_utils.InferenceResponse([], error), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
TICKING = """
backend: "python"
input { name: "START" data_type: TYPE_FP32 dims: 1 }
output { name: "TICK" data_type: TYPE_FP32 dims: 1 }
model_transaction_policy { decoupled: true }
"""
#: All that lies in the models folder.
FOLDERS = {*MODELS, "double", "ticks", "stumbles", "adds_twice", "adds_gated"}
LIMIT = 1 << 20


class Ports:
    """A running Headway, and clients that have its key."""

    def __init__(self, up: RunningHeadway, token: str) -> None:
        self.up = up
        self.http, self.grpc = (up.urls[f"oip.{role}"].removeprefix("http://") for role in ("http", "grpc"))
        self.headers = {"authorization": f"Bearer {token}"}

    def client(self, kind: str, **options: Any) -> Any:
        """`http`, `grpc`, or their asyncio ones."""
        module: Any = {
            "http": tritonclient.http,
            "grpc": tritonclient.grpc,
            "http.aio": tritonclient.http.aio,
            "grpc.aio": tritonclient.grpc.aio,
        }[kind]
        client = module.InferenceServerClient(self.http if kind.startswith("http") else self.grpc, **options)
        client.register_plugin(lambda request: request.headers.update(self.headers))
        return client

    def get(self, url: str, **headers: str) -> httpx.Response:
        return httpx.get(url, headers={**self.headers, **headers}, timeout=30)

    def post(self, url: str, **options: Any) -> httpx.Response:
        headers = {**self.headers, **options.pop("headers", {})}
        return httpx.post(url, headers=headers, timeout=30, **options)


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[Ports]:
    folder = tmp_path_factory.mktemp("oip")
    for name, (code, toml) in MODELS.items():
        (folder / "models" / name / "1").mkdir(parents=True)
        (folder / "models" / name / "1" / "model.py").write_text(code.replace("GATE", str(folder / "gate")))
        (folder / "models" / name / "model.toml").write_text(toml)
    for name, code in (("ticks", TICKS), ("stumbles", STUMBLES)):
        for word in ("DIED", "SEEN", "BEGUN"):
            code = code.replace(word, str(folder / word.lower()))
        (folder / "models" / name / "1").mkdir(parents=True)
        (folder / "models" / name / "1" / "model.py").write_text(code)
        (folder / "models" / name / "config.pbtxt").write_text(TICKING)
    for name, last in (("adds_twice", "add"), ("adds_gated", "gated")):
        (folder / "models" / name / "1").mkdir(parents=True)
        (folder / "models" / name / "config.pbtxt").write_text(ENSEMBLE.replace("MODEL", last))
    (folder / "models" / "double" / "1").mkdir(parents=True)
    (folder / "models" / "double" / "1" / "model.onnx").write_bytes(doubling())
    (folder / "gate").touch()  # it is warmed up
    token = new_token()
    environ = {
        "HEADWAY_BOOTSTRAP_KEY": token,
        "HEADWAY_MAX_BODY_BYTES": str(LIMIT),
        "HEADWAY_WEBHOOK_ALLOW": "127.0.0.0/8",
    }
    options = ["--redis-url", redis_url, "--dialect", "oip=0,0,0"]
    with RunningHeadway(folder, options=options, environ=environ) as up:
        yield Ports(up, token)


Inputs = dict[str, np.ndarray[Any, Any]]
NUMBERS: Inputs = {"a": np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.float32), "b": np.full((2, 4), 0.5, np.float32)}


def tensors(kind: str, arrays: Inputs) -> list[Any]:
    module: Any = tritonclient.http if kind.startswith("http") else tritonclient.grpc
    made = []
    for name, array in arrays.items():
        datatype = {"O": "BYTES", "f": "FP32"}[array.dtype.kind]
        made.append(module.InferInput(name, list(array.shape), datatype))
        made[-1].set_data_from_numpy(array)
    return made


@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_a_client_with_its_defaults_is_answered(ports: Ports, kind: str) -> None:
    with ports.client(kind) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("add")
        assert not client.is_model_ready("nobody")
        result = client.infer("add", tensors(kind, NUMBERS), request_id="7")
        assert np.array_equal(result.as_numpy("sum"), NUMBERS["a"] + 0.5)
        response = result.get_response()
        assert (response["id"] if kind == "http" else response.id) == "7"

        words = np.array(["héllo", "b"], dtype=object)
        loud = client.infer("shout", tensors(kind, {"text": words})).as_numpy("loud")
        assert [one.decode() for one in loud] == ["HÉLLO", "B"]

        texts = np.array([b'{"x": [1]}', b"null"], dtype=object)
        got = client.infer("any", tensors(kind, {"input": texts})).as_numpy("got")
        assert [bytes(one) for one in got] == [b'{"x":[1]}', b"null"]

        module: Any = tritonclient.http if kind == "http" else tritonclient.grpc
        shown = [module.InferRequestedOutput("output")]  # as metadata has it
        whole = client.infer("any", tensors(kind, {"input": texts}), outputs=shown).as_numpy("output")
        assert [bytes(one) for one in whole] == [b'{"got":{"x":[1]}}', b'{"got":null}']

        x = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
        assert np.array_equal(client.infer("double", tensors(kind, {"x": x})).as_numpy("y"), 2 * x)


@pytest.mark.parametrize("kind", ["http.aio", "grpc.aio"])
def test_an_asyncio_client_with_its_defaults_is_answered(ports: Ports, kind: str) -> None:
    async def ask() -> list[Any]:
        client = ports.client(kind)
        try:
            assert await client.is_server_ready()
            results = await asyncio.gather(*(client.infer("add", tensors(kind, NUMBERS)) for _ in range(8)))
            return [result.as_numpy("sum") for result in results]
        finally:
            await client.close()

    for answer in asyncio.run(ask()):
        assert np.array_equal(answer, NUMBERS["a"] + 0.5)


def test_json_instead_of_binary_compression_and_classes_are_answered_over_http(ports: Ports) -> None:
    with ports.client("http") as client:
        given = []
        for name, array in NUMBERS.items():
            given.append(tritonclient.http.InferInput(name, [2, 4], "FP32"))
            given[-1].set_data_from_numpy(array, binary_data=False)
        wanted = [tritonclient.http.InferRequestedOutput("sum", binary_data=False)]
        for algorithm in ("gzip", "deflate"):
            result = client.infer(
                "add", given, outputs=wanted, request_compression_algorithm=algorithm,
                response_compression_algorithm=algorithm,
            )  # fmt: skip
            assert np.array_equal(result.as_numpy("sum"), NUMBERS["a"] + 0.5)
        wide = np.tile(np.array([[1, 2]], np.float32), (2000, 1))
        assert np.array_equal(
            client.infer("double", tensors("http", {"x": wide}), response_compression_algorithm="gzip").as_numpy("y"),
            2 * wide,
        )
        top = [tritonclient.http.InferRequestedOutput("sum", class_count=2)]
        classes = client.infer("add", tensors("http", NUMBERS), outputs=top).as_numpy("sum")
        assert classes.tolist() == [[b"4.500000:3", b"3.500000:2"], [b"8.500000:3", b"7.500000:2"]]


def test_contents_by_type_gzip_and_classes_are_answered_over_grpc(ports: Ports) -> None:
    with grpc.insecure_channel(ports.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        metadata = tuple(ports.headers.items())
        request = service_pb2.ModelInferRequest(model_name="add")
        for name, array in NUMBERS.items():
            request.inputs.add(name=name, datatype="FP32", shape=[2, 4]).contents.fp32_contents.extend(array.flat)
        response = stub.ModelInfer(request, metadata=metadata, compression=grpc.Compression.Gzip)
        assert np.array_equal(
            np.frombuffer(response.raw_output_contents[0], np.float32), NUMBERS["a"].reshape(-1) + 0.5
        )
        request.outputs.add(name="sum").parameters["classification"].int64_param = 1
        response = stub.ModelInfer(request, metadata=metadata)
        assert (response.outputs[0].datatype, list(response.outputs[0].shape)) == ("BYTES", [2, 1])

        request.inputs[0].contents.int_contents.append(1)
        with pytest.raises(grpc.RpcError, match="unexpected explicit tensor data") as refused:
            stub.ModelInfer(request, metadata=metadata)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("model", "arrays", "status", "message"),
    [
        ("nobody", NUMBERS, "NOT_FOUND", "unknown model: 'nobody'"),
        ("add", {"a": NUMBERS["a"]}, "INVALID_ARGUMENT", "missing required input"),
        ("add", {**NUMBERS, "c": NUMBERS["b"]}, "INVALID_ARGUMENT", "unexpected inference input 'c'"),
        ("add", {"a": NUMBERS["a"], "b": NUMBERS["b"][:1]}, "INVALID_ARGUMENT", "batch size does not match"),
        ("add", {"a": NUMBERS["a"][0], "b": NUMBERS["b"]}, "INVALID_ARGUMENT", "unexpected shape for input 'a'"),
        ("shout", NUMBERS, "INVALID_ARGUMENT", "unexpected inference input"),
        ("any", {"input": np.array([b"{"], dtype=object)}, "INVALID_ARGUMENT", "is no JSON"),
        ("any", {"input": np.array([b'"bad"'], dtype=object)}, "INTERNAL", "it will not have this"),
    ],
)
def test_what_cannot_be_answered_is_told_in_both_protocols(
    ports: Ports, model: str, arrays: Inputs, status: str, message: str
) -> None:
    codes = {"NOT_FOUND": 404, "INVALID_ARGUMENT": 400, "INTERNAL": 500}
    with ports.client("http") as client, pytest.raises(InferenceServerException, match=message) as refused:
        client.infer(model, tensors("http", arrays))
    assert refused.value.status() == str(codes[status])
    with ports.client("grpc") as client, pytest.raises(InferenceServerException, match=message) as refused:
        client.infer(model, tensors("grpc", arrays))
    assert refused.value.status() == f"StatusCode.{status}"


def test_a_stream_is_answered_in_its_order_and_an_error_ends_nothing(ports: Ports) -> None:
    came: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with ports.client("grpc") as client:
        client.start_stream(lambda result, error: came.put((result, error)), headers=ports.headers)
        for number in range(12):
            name = "nobody" if number == 5 else "add"
            arrays = {"a": np.full((1, 4), number, np.float32), "b": np.zeros((1, 4), np.float32)}
            client.async_stream_infer(name, tensors("grpc", arrays), request_id=str(number))
        for number in range(12):
            result, error = came.get(timeout=20)
            if number == 5:
                assert "unknown model: 'nobody'" in str(error)
                continue
            response = result.get_response()
            assert (response.id, result.as_numpy("sum")[0, 0]) == (str(number), number)
            assert response.parameters["triton_final_response"].bool_param
        client.stop_stream()


def test_metadata_configuration_and_statistics_are_the_same_in_both_protocols(ports: Ports) -> None:
    with ports.client("http") as http, ports.client("grpc") as rpc:
        http.infer("add", tensors("http", NUMBERS))
        rpc.infer("add", tensors("grpc", NUMBERS))
        assert http.get_server_metadata()["name"] == rpc.get_server_metadata(as_json=True)["name"] == "headway"
        shown = http.get_model_metadata("add")
        assert shown["inputs"][0] == {"name": "a", "datatype": "FP32", "shape": [-1, 4]}
        same = rpc.get_model_metadata("add", as_json=True)
        assert [(one["name"], [int(length) for length in one["shape"]]) for one in same["inputs"]] == [
            ("a", [-1, 4]),
            ("b", [-1, 4]),
        ]
        config = rpc.get_model_config("add").config
        assert (config.max_batch_size, config.input[0].dims) == (32, [4])
        assert http.get_model_config("add")["max_batch_size"] == 32
        single = http.get_model_config("shout")  # perf_analyzer takes no empty dims
        assert (single["max_batch_size"], single["input"][0]["dims"]) == (0, [-1])
        for_http = http.get_inference_statistics("add")["model_stats"][0]
        for_grpc = rpc.get_inference_statistics("add").model_stats[0]
        assert for_http["inference_count"] == for_grpc.inference_count >= 4
        assert for_grpc.inference_stats.success.count == for_http["inference_stats"]["success"]["count"]
        assert for_grpc.inference_stats.compute_infer.ns > 0
        assert {one["name"] for one in http.get_model_repository_index()} == FOLDERS
        assert {one.name for one in rpc.get_model_repository_index().models} == FOLDERS
        series = ports.get(ports.up.urls["oip.metrics"] + "/metrics").text
        assert f'nv_inference_count{{model="add",version="1"}} {for_http["inference_count"]}\n' in series


@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_a_model_is_unloaded_and_loaded_again(ports: Ports, kind: str) -> None:
    with ports.client(kind) as client:
        client.unload_model("shout")
        assert not client.is_model_ready("shout")
        with pytest.raises(InferenceServerException, match="has no available versions"):
            client.infer("shout", tensors(kind, {"text": np.array(["x"], dtype=object)}))
        client.load_model("shout")
        assert client.is_model_ready("shout")
        with pytest.raises(InferenceServerException, match="failed to poll from model repository"):
            client.load_model("nobody")
        with pytest.raises(InferenceServerException, match="takes no configuration"):
            client.load_model("shout", config="{}")


@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_what_is_not_done_is_said_so_that_clients_go_on(ports: Ports, kind: str) -> None:
    with ports.client(kind) as client:
        client.unregister_system_shared_memory()
        client.unregister_cuda_shared_memory()
        shown = client.get_system_shared_memory_status()
        assert not (shown if kind == "http" else shown.regions)
        for ask, *given in (
            (client.register_system_shared_memory, "x", "/x", 16),
            (client.get_trace_settings,),
            (client.get_log_settings,),
        ):
            with pytest.raises(InferenceServerException, match="this server"):
                ask(*given)
        assert client.is_server_live()


@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_by_a_parameter_a_request_becomes_a_job_and_its_webhook_is_called(ports: Ports, kind: str) -> None:
    receiver = Receiver()
    try:
        one = {name: array[:1] for name, array in NUMBERS.items()}
        headers = {"x-headway-webhook": receiver.url, "idempotency-key": f"job-{kind}"}
        with ports.client(kind) as client:
            replies = [
                client.infer("add", tensors(kind, one), parameters={"headway_async": True}, headers=headers)
                for _ in range(2)  # a repetition is the same job
            ]
        parameters = [reply.get_response() for reply in replies]
        if kind == "http":
            urls = [each["parameters"]["headway_job_url"] for each in parameters]
        else:
            urls = [each.parameters["headway_job_url"].string_param for each in parameters]
        assert urls[0] == urls[1]
        assert replies[0].as_numpy("sum") is None
        ended = ports.get(urls[0], prefer="wait=20").json()
        assert (ended["status"], ended["output"]) == ("succeeded", {"sum": [1.5, 2.5, 3.5, 4.5]})
        wait_until(lambda: receiver.got, 20, "the webhook")
        assert receiver.got[0].event["data"]["id"] == ended["id"]
    finally:
        receiver.close()


def test_by_a_header_it_becomes_the_job_that_the_data_port_would_show(ports: Ports) -> None:
    url = f"http://{ports.http}/v2/models/any/infer"
    body = {"inputs": [{"name": "input", "shape": [1], "datatype": "BYTES", "data": ["3"]}]}
    accepted = ports.post(url, json=body, headers={"x-headway-async": "true"})
    assert accepted.status_code == 202
    assert ports.get(accepted.headers["location"], prefer="wait=20").json()["output"] == {"got": 3}


def test_generate_takes_plain_json(ports: Ports) -> None:
    url = f"http://{ports.http}/v2/models/shout/generate"
    answer = {"model_name": "shout", "model_version": "1", "loud": "HI"}
    assert ports.post(url, json={"text": "hi", "temperature": 0}).json() == answer
    streamed = ports.post(url + "_stream", json={"text": ["hi"]})
    assert streamed.headers["content-type"].startswith("text/event-stream")
    assert streamed.text.startswith("data: {")
    refused = ports.post(url, json={"text": ["a", "b"]})
    assert (refused.status_code, "proper shape" in refused.text) == (400, True)
    several = ports.post(f"http://{ports.http}/v2/models/add/generate", json={"a": [1] * 4, "b": [1] * 4})
    assert (several.status_code, several.json()["sum"]) == (200, [2.0] * 4)


def test_wrong_methods_and_paths_are_told_apart(ports: Ports) -> None:
    assert ports.get(f"http://{ports.http}/v2/models/add/infer").status_code == 405
    assert ports.get(f"http://{ports.http}/v2/nothing").status_code == 404


@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_nobody_gets_in_without_a_key(ports: Ports, kind: str) -> None:
    module: Any = tritonclient.http if kind == "http" else tritonclient.grpc
    with module.InferenceServerClient(ports.http if kind == "http" else ports.grpc) as client:
        assert client.is_server_live()  # probes have none
        for ask, *given in (
            (client.infer, "add", tensors(kind, NUMBERS)),
            (client.get_model_metadata, "add"),
            (client.unload_model, "add"),
        ):
            with pytest.raises(InferenceServerException) as refused:
                ask(*given)
            assert refused.value.status() in ("401", "StatusCode.UNAUTHENTICATED")


def test_a_key_may_do_what_its_scopes_say_and_no_more(ports: Ports) -> None:
    made = ports.post(f"{ports.up.control_url}/v1/keys", json={"name": "reader", "scopes": ["read"]})
    headers = {"authorization": f"Bearer {made.json()['key']}"}

    def known() -> bool:
        return httpx.get(f"http://{ports.http}/v2", headers=headers).status_code == 200

    wait_until(known, 20, "the key to be known")
    with tritonclient.grpc.InferenceServerClient(ports.grpc) as client:
        assert client.get_model_metadata("add", headers=headers).name == "add"
        with pytest.raises(InferenceServerException, match="scope `predict`") as refused:
            client.infer("add", tensors("grpc", NUMBERS), headers=headers)
        assert refused.value.status() == "StatusCode.PERMISSION_DENIED"
        with pytest.raises(InferenceServerException, match="scope `admin`"):
            client.unload_model("add", headers=headers)


def test_a_message_over_the_limit_is_refused_compressed_or_not(ports: Ports) -> None:
    large = np.zeros((LIMIT // 8 + 1, 2), np.float32)
    with ports.client("grpc") as client:
        for algorithm in (None, "gzip"):
            with pytest.raises(InferenceServerException) as refused:
                client.infer("double", tensors("grpc", {"x": large}), compression_algorithm=algorithm)
            assert refused.value.status() == "StatusCode.RESOURCE_EXHAUSTED"
        assert client.is_server_live()
    with ports.client("http") as client, pytest.raises(InferenceServerException) as refused:
        client.infer("double", tensors("http", {"x": large}), request_compression_algorithm="gzip")
    assert refused.value.status() == "413"


def gated(ports: Ports, status: str) -> list[dict[str, Any]]:
    found = ports.get(f"{ports.up.data_url}/v1/predictions?model=gated&status={status}").json()["data"]
    assert isinstance(found, list)
    return found


@pytest.fixture
def gate(ports: Ports) -> Iterator[Path]:
    """Of `gated`, whose device computes a prediction until this exists; what comes meanwhile is queued."""
    path = ports.up.folder / "gate"
    path.unlink(missing_ok=True)
    ports.post(f"{ports.up.data_url}/v1/models/gated/predictions", json={"input": {"a": [1.0] * 4, "b": [1.0] * 4}})
    wait_until(lambda: gated(ports, "in_progress"), 20, "the device to be busy")
    yield path
    path.touch()
    wait_until(lambda: not gated(ports, "in_progress") and not gated(ports, "queued"), 20, "the device to be free")


def test_requests_of_both_protocols_and_of_rest_share_a_micro_batch(ports: Ports, gate: Path) -> None:
    one = {name: array[:1] for name, array in NUMBERS.items()}

    def ask(kind: str) -> Any:
        if kind == "rest":
            url = f"{ports.up.data_url}/v1/models/gated/predictions"
            sent = {"input": {name: array[0].tolist() for name, array in one.items()}}
            return ports.post(url, json=sent, headers={"prefer": "wait=20"}).json()["output"]["sum"]
        with ports.client(kind) as client:
            return client.infer("gated", tensors(kind, one)).as_numpy("sum")[0].tolist()

    with ThreadPoolExecutor(3) as threads:
        answers = [threads.submit(ask, kind) for kind in ("http", "grpc", "rest")]
        wait_until(lambda: len(gated(ports, "queued")) == 3, 20, "all three to be queued")
        gate.touch()
        assert [answer.result(20) for answer in answers] == [[1.5, 2.5, 3.5, 4.5]] * 3
    rows = gated(ports, "succeeded")
    assert [row["metrics"]["batch_size"] for row in rows[:4]] == [3, 3, 3, 1]


@pytest.mark.usefixtures("gate")
def test_a_call_that_is_canceled_or_too_late_lets_go_of_what_is_queued(ports: Ports) -> None:
    with ports.client("grpc") as client:
        with pytest.raises(InferenceServerException) as late:
            client.infer("gated", tensors("grpc", NUMBERS), client_timeout=0.5)
        assert late.value.status() == "StatusCode.DEADLINE_EXCEEDED"
        wait_until(lambda: not gated(ports, "queued"), 10, "what was late to be canceled")

        ended = threading.Event()
        call = client.async_infer("gated", tensors("grpc", NUMBERS), lambda result, error: ended.set())
        wait_until(lambda: len(gated(ports, "queued")) == 2, 10, "its rows to be queued")
        call.cancel()
        assert ended.wait(10)
        wait_until(lambda: not gated(ports, "queued"), 10, "them to be canceled")


@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_the_steps_of_an_ensemble_are_predictions_of_their_models(ports: Ports, kind: str) -> None:
    arrays = {"A": NUMBERS["a"], "B": NUMBERS["b"]}
    with ports.client(kind) as client:
        wait_until(lambda: client.is_model_ready("adds_twice"), 10, "its models to be ready")
        before = client.get_inference_statistics("add") if kind == "http" else None
        result = client.infer("adds_twice", tensors(kind, arrays))
        assert np.array_equal(result.as_numpy("TWICE"), NUMBERS["a"] + 1)
        if before is not None:
            (then,), (now,) = (stats["model_stats"] for stats in (before, client.get_inference_statistics("add")))
            assert now["inference_count"] - then["inference_count"] == 4  # two rows, two steps
            (whole,) = client.get_inference_statistics("adds_twice")["model_stats"]
            assert whole["inference_count"] >= 2
        with pytest.raises(InferenceServerException, match="a job is one prediction, and 'adds_twice' is an ensemble"):
            client.infer("adds_twice", tensors(kind, arrays), parameters={"headway_async": True})
    refused = ports.post(f"{ports.up.data_url}/v1/models/adds_twice/predictions", json={"input": {}})
    assert (refused.status_code, refused.json()["code"]) == (422, "validation_failed")
    assert "is an ensemble" in refused.json()["detail"]


@pytest.mark.usefixtures("gate")
def test_who_leaves_an_ensemble_lets_go_of_the_step_that_is_queued(ports: Ports) -> None:
    arrays = {"A": NUMBERS["a"], "B": NUMBERS["b"]}
    with ports.client("grpc") as client:
        ended = threading.Event()
        call = client.async_infer("adds_gated", tensors("grpc", arrays), lambda result, error: ended.set())
        wait_until(lambda: len(gated(ports, "queued")) == 2, 10, "the rows of its second step to be queued")
        call.cancel()
        assert ended.wait(10)
        wait_until(lambda: not gated(ports, "queued"), 10, "them to be canceled")


@pytest.mark.parametrize(("start", "told"), [(5, [5, 6, 7]), (-9, [-9, "the model was called again"])])
def test_what_a_decoupled_model_has_said_is_not_said_twice_when_its_process_dies(
    ports: Ports, start: int, told: list[Any]
) -> None:
    for name in ("died", "seen"):
        (ports.up.folder / name).unlink(missing_ok=True)
    came: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with ports.client("grpc") as client:
        client.start_stream(lambda result, error: came.put((result, error)), headers=ports.headers)
        client.async_stream_infer("ticks", tensors("grpc", {"START": np.array([start], np.float32)}))
        for expected in told:
            result, error = came.get(timeout=30)
            if isinstance(expected, str):
                assert expected in str(error)
            else:
                assert (error, result.as_numpy("TICK").tolist()) == (None, [expected])
            (ports.up.folder / "seen").touch()
        client.stop_stream()
    assert (ports.up.folder / "died").exists()
    assert came.empty()


def test_what_a_decoupled_model_has_said_before_an_error_is_told_however_late_it_is_heard(ports: Ports) -> None:
    for name in ("begun", "seen"):
        (ports.up.folder / name).unlink(missing_ok=True)
    came: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with ports.client("grpc") as client:
        client.start_stream(lambda result, error: came.put((result, error)), headers=ports.headers)
        client.async_stream_infer("stumbles", tensors("grpc", {"START": np.array([4], np.float32)}))
        wait_until((ports.up.folder / "begun").exists, 30, "its call")
        api = ports.up.pid_of("api")
        os.kill(api, signal.SIGSTOP)
        try:
            (ports.up.folder / "seen").touch()
            wait_until(lambda: ended(ports, "stumbles"), 30, "its end")
        finally:
            os.kill(api, signal.SIGCONT)
        result, error = came.get(timeout=30)
        assert (error, result.as_numpy("TICK").tolist()) == (None, [4])
        result, error = came.get(timeout=30)
        assert "a stone" in str(error)
        client.stop_stream()
    assert came.empty()


def ended(ports: Ports, model: str) -> int:
    """How many of its predictions have, as the database has it while no API answers."""
    with contextlib.closing(sqlite3.connect(ports.up.database)) as database:
        sql = "SELECT count(*) FROM predictions WHERE model = ? AND completed_at IS NOT NULL"
        return int(database.execute(sql, [model]).fetchone()[0])
