"""TorchServe's REST protocol, with archives that its own archiver made, and what its clients send."""

import os
import shutil
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from headway.running import RunningHeadway
from headway.testing import wait_until
from tests.archives import ECHO, archive

CONFIG = "batchSize: 4\nmaxBatchDelay: 200\nresponseTimeout: 2\n"
#: Beside what the other does, so that two versions can be told apart, and one that ends its process.
SECOND = """
import os

class Second:
    def initialize(self, context):
        pass

    def handle(self, data, context):
        if data[0].get("body") == "die":
            os._exit(1)
        return ["second"] * len(data)
"""
#: Two are registered at the start, one under another name.
PROPERTIES = r"""
inference_address=http://127.0.0.1:8080
load_models=stream.mar, named=second.mar, nowhere.mar
job_queue_size=70
default_response_timeout=30
models={ \
  "stream": {"1.0": {"minWorkers": 1, "batchSize": 3, "maxBatchDelay": 5}}, \
  "named": {"2.0": {"batchSize": 7}} }
"""
BROKEN = """
class Broken:
    def initialize(self, context):
        self.path = context.manifest["model"]["modelFile"]

    def handle(self, data, context):
        return data
"""
#: Answers in parts, the second once a file is there.
STREAM = """
import time
from pathlib import Path
from ts.handler_utils.utils import send_intermediate_predict_response

class Stream:
    def initialize(self, context):
        pass

    def handle(self, data, context):
        asked = data[0]["body"]
        for name, value in asked.get("headers", {}).items():
            context.set_response_header(0, name, value)
        if "status" in asked:
            context.set_response_status(asked["status"], "Said", 0)
        send_intermediate_predict_response([asked["first"]], context.request_ids, "said", 200, context)
        until = time.monotonic() + 20
        while "after" in asked and not Path(asked["after"]).exists() and time.monotonic() < until:
            time.sleep(0.005)
        if "raise" in asked:
            raise ValueError("asked to")
        second = b"\\xff" * asked.get("bytes", 1)
        send_intermediate_predict_response([second], context.request_ids, "said", 200, context)
        return [asked["last"]]
"""


class Spoken(RunningHeadway):
    """With a client for each of TorchServe's ports."""

    def inference(self, method: str, path: str, **more: Any) -> httpx.Response:
        return httpx.request(method, self.urls["torchserve.inference"] + path, timeout=60, **more)

    def management(self, method: str, path: str, **more: Any) -> httpx.Response:
        return httpx.request(method, self.urls["torchserve.management"] + path, timeout=60, **more)


@pytest.fixture(scope="module")
def headway(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[Spoken]:
    folder = tmp_path_factory.mktemp("torchserve")
    (folder / "config.yaml").write_text(CONFIG)
    made = folder / "made"
    archives = [
        archive(made, "Echo", ECHO, config_file=folder / "config.yaml"),
        archive(made, "second", SECOND, version="2.0", config_file=folder / "config.yaml"),
        archive(made, "broken", BROKEN),
        archive(made, "stream", STREAM),
    ]
    (folder / "models").mkdir()
    for one in archives:
        shutil.copy(one, folder / "models")
    (folder / "models" / "config.properties").write_text(PROPERTIES)
    client = redis.Redis.from_url(redis_url)
    client.flushall()
    options = ["--redis-url", redis_url, "--dialect", "torchserve=0,0,0"]
    up = Spoken(folder, options=options)
    with up:
        answer = up.management("POST", "/models?url=Echo.mar&initial_workers=1")
        assert answer.json() == {"status": 'Model "Echo" Version: 1.0 registered with 1 initial workers'}, answer.text
        yield up


def error(answer: httpx.Response) -> tuple[int, str, str]:
    said = answer.json()
    assert answer.status_code == said["code"]
    assert answer.headers["x-request-id"]
    return said["code"], said["type"], said["message"]


def test_what_clients_send_reaches_the_handler_and_its_answer_comes_back_as_torchserve_writes_it(
    headway: Spoken,
) -> None:
    answer = headway.inference("POST", "/predictions/Echo", json={"x": [1.5, "é"]})
    assert answer.text == (
        '{\n  "body": [\n    "dict",\n    {\n      "x": [\n        1.5,\n        "\\u00e9"\n      ]\n    }\n  ]\n}'
    )
    assert "content-type" not in answer.headers
    raw = headway.inference("PUT", "/predictions/Echo/1.0", content=b"\x00\xff")
    assert raw.json() == {"body": ["bytearray", "\x00\xff"]}
    form = headway.inference("POST", "/predictions/Echo", files={"data": ("x.bin", b"\r\n")}, data={"name": "Ada"})
    assert form.json() == {"name": ["bytearray", "Ada"], "data": ["bytearray", "\r\n"]}
    assert headway.inference("GET", "/predictions/Echo?a=1").json() == {"body": ["bytearray", ""]}
    assert headway.inference("POST", "/explanations/Echo", json="explained").text == "True"
    assert headway.inference("POST", "/invocations?model_name=Echo", json="explained").text == "False"
    assert headway.inference("POST", "/v1/models/Echo:predict", json="named", headers={"X-Name": "Ada"}).text == "Ada"


def test_status_headers_and_types_that_a_handler_sets_reach_the_client(headway: Spoken) -> None:
    teapot = headway.inference("POST", "/predictions/Echo", json="teapot")
    assert (teapot.status_code, teapot.json()) == (418, {"body": ["str", "teapot"]})
    assert headway.inference("POST", "/predictions/Echo", json="header").headers["x-said"] == "yes"
    png = headway.inference("POST", "/predictions/Echo", json="png")
    assert (png.headers["content-type"], png.content) == ("image/png", b"\x89PNG")


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ("raise", 503, "Prediction failed"),
        ("refuse", 404, "no such label"),
        ("tuple", 503, "Invalid model predict output"),
        ("short", 503, "number of batch response mismatched"),
        ("object", 503, "Unsupported model output data type."),
    ],
)
def test_a_handler_that_fails_is_told_in_torchserves_words(headway: Spoken, body: str, code: int, message: str) -> None:
    answer = headway.inference("POST", "/predictions/Echo", json=body)
    assert error(answer) == (code, "InternalServerException", message)


def test_requests_at_the_same_time_share_a_call_and_one_that_fails_takes_nobody_with_it(
    headway: Spoken, tmp_path: Path
) -> None:
    bodies = ["size", "raise", "size", "size"] * 2
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda body: headway.inference("POST", "/predictions/Echo", json=body), bodies))
    assert [one.status_code for one in answers] == [200, 503, 200, 200] * 2
    gate = tmp_path / "gate"

    def unfinished() -> int:  # what the worker has claimed ahead is in progress, too
        url = f"{headway.data_url}/v1/predictions?model=Echo&status="
        return sum(len(httpx.get(url + status).json()["data"]) for status in ("queued", "in_progress"))

    with ThreadPoolExecutor(9) as threads:
        held = threads.submit(headway.inference, "POST", "/predictions/Echo", json={"until": str(gate)})
        try:
            wait_until(lambda: unfinished() == 1, 10, "the device to be busy")
            sizes = [threads.submit(headway.inference, "POST", "/predictions/Echo", json="size") for _ in range(8)]
            wait_until(lambda: unfinished() == 9, 10, "all to be queued")
        finally:
            gate.touch()
        assert held.result().text == "held"
        assert max(int(size.result().text) for size in sizes) == 4  # batchSize


def test_a_request_may_ask_for_a_job_and_native_clients_see_the_same_prediction(headway: Spoken) -> None:
    answer = headway.inference("POST", "/predictions/Echo", json={"a": 1}, headers={"Prefer": "respond-async"})
    assert answer.status_code == 202
    url = f"{headway.data_url}{httpx.URL(answer.headers['location']).path}"
    prediction = httpx.get(url, headers={"Prefer": "wait=30"}, timeout=60).json()
    assert (prediction["status"], prediction["output"]) == ("succeeded", {"body": ["dict", {"a": 1}]})
    native = httpx.post(f"{headway.data_url}/v1/models/Echo:predict", json={"instances": [{"a": 1}]}, timeout=60)
    assert native.json() == {"predictions": [{"body": ["dict", {"a": 1}]}]}


def test_archives_that_config_properties_names_are_served_at_the_start(headway: Spoken) -> None:
    (stream,) = headway.management("GET", "/models/stream").json()
    (named,) = headway.management("GET", "/models/named/2.0").json()
    told = [
        (one["modelUrl"], one["batchSize"], one["maxBatchDelay"], one["responseTimeout"]) for one in (stream, named)
    ]
    assert told == [("stream.mar", 3, 5, 30), ("second.mar", 4, 200, 2)]  # the archive's own YAML outranks the file
    assert [worker["status"] for worker in stream["workers"]] == ["READY"]
    assert stream["jobQueueStatus"]["remainingCapacity"] == 70
    assert headway.inference("POST", "/predictions/named", json=1).text == "second"


def test_parts_of_a_reply_go_out_as_they_come_and_the_rest_at_the_end(headway: Spoken, tmp_path: Path) -> None:
    url = headway.urls["torchserve.inference"] + "/predictions/stream"
    heard = tmp_path / "heard"
    headers = {"content-type": "text/event-stream", "x-said": "yes"}
    asked = {"first": {"a": 1.0}, "last": "end", "after": str(heard), "bytes": 300_000}
    asked |= {"headers": headers, "status": 203}
    with httpx.stream("POST", url, json=asked, timeout=60) as answer:
        assert (answer.status_code, answer.headers["transfer-encoding"]) == (203, "chunked")
        assert (answer.headers["x-said"], answer.headers["content-type"]) == ("yes", "text/event-stream")
        pieces = answer.iter_raw()
        assert next(pieces) == b'{\n  "a": 1.0\n}'
        heard.touch()
        assert b"".join(pieces) == b"\xff" * 300_000 + b"end"
    whole = httpx.Client().build_request("POST", url, json={"first": "one ", "last": "two", "bytes": 0})
    with socket.create_connection((whole.url.host, whole.url.port or 80), timeout=60) as client:
        head = f"POST /predictions/stream HTTP/1.0\r\nhost: {whole.url.host}\r\ncontent-type: application/json\r\n"
        client.sendall(f"{head}content-length: {len(whole.content)}\r\n\r\n".encode() + whole.content)
        answered = b"".join(iter(lambda: client.recv(65536), b""))
    assert b"\r\ncontent-length: 7\r\n" in answered
    assert answered.endswith(b"\r\n\r\none two")


def test_a_reply_whose_handler_fails_behind_a_part_breaks_off(headway: Spoken, tmp_path: Path) -> None:
    url, heard = headway.urls["torchserve.inference"] + "/predictions/stream", tmp_path / "heard"
    asked = {"first": "one", "last": "", "after": str(heard), "raise": True}
    with httpx.stream("POST", url, json=asked, timeout=60) as answer:
        pieces = answer.iter_raw()
        assert next(pieces) == b"one"
        heard.touch()
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            next(pieces)


def test_what_is_not_there_is_told_in_torchserves_words(headway: Spoken) -> None:
    assert error(headway.inference("POST", "/predictions/nope", json=1)) == (
        404,
        "ModelNotFoundException",
        "Model not found: nope",
    )
    assert error(headway.inference("POST", "/predictions/Echo/9", json=1)) == (
        404,
        "ModelVersionNotFoundException",
        "Model version: 9 does not exist for model: Echo",
    )
    for path, code, type_ in (("/nope", 404, "ResourceNotFoundException"), ("/", 405, "MethodNotAllowedException")):
        assert error(headway.inference("GET", path))[:2] == (code, type_)
        assert error(headway.management("GET", path))[:2] == (code, type_)
    assert headway.inference("GET", "/ping").json() == {"status": "Healthy"}
    assert headway.inference("OPTIONS", "/").json()["openapi"] == "3.0.1"


@pytest.mark.parametrize(
    ("query", "code", "type_"),
    [
        ("", 400, "BadRequestException"),
        ("?url=nope.mar", 404, "ModelNotFoundException"),
        ("?url=../models/Echo.mar", 404, "ModelNotFoundException"),
        ("?url=/etc/passwd", 404, "ModelNotFoundException"),
        ("?url=file:///etc/passwd", 404, "ModelNotFoundException"),
        ("?url=http://127.0.0.1:1/x.mar", 400, "DownloadArchiveException"),
        ("?url=Echo.mar&runtime=java", 400, "BadRequestException"),
        ("?url=Echo.mar&model_name=a%20b", 400, "BadRequestException"),
        ("?url=Echo.mar", 409, "ConflictStatusException"),
        ("?url=Echo/1.0/config.yaml", 400, "InvalidModelException"),
    ],
)
def test_an_archive_that_cannot_be_registered_is_refused(headway: Spoken, query: str, code: int, type_: str) -> None:
    assert error(headway.management("POST", f"/models{query}"))[:2] == (code, type_)


def test_an_archive_whose_handler_does_not_load_is_not_registered(headway: Spoken) -> None:
    answer = headway.management("POST", "/models?url=broken.mar&initial_workers=1&synchronous=true")
    assert error(answer) == (500, "InternalServerException", "Failed to start workers for model broken version: 1.0")
    assert headway.management("GET", "/models/broken").status_code == 404
    assert not (headway.folder / "models" / "broken").exists()


def test_versions_are_registered_scaled_made_default_and_unregistered(headway: Spoken) -> None:
    path, models = "/predictions/Echo", headway.folder / "models"
    registered = headway.management("POST", "/models?url=second.mar&model_name=Echo&batch_size=2&response_timeout=1")
    assert registered.status_code == 200
    assert "Use scale workers API" in registered.json()["status"]
    assert error(headway.inference("POST", f"{path}/2.0", json=1))[:2] == (503, "ServiceUnavailableException")
    scaled = headway.management("PUT", "/models/Echo/2.0?min_worker=1&synchronous=true")
    assert scaled.json() == {"status": "Workers scaled to 1 for model: Echo, version: 2.0"}
    (described,) = headway.management("GET", "/models/Echo/2.0").json()
    assert (described["modelUrl"], described["batchSize"], described["responseTimeout"]) == ("second.mar", 2, 1)
    assert [worker["status"] for worker in described["workers"]] == ["READY"]
    assert headway.inference("POST", f"{path}/2.0", json=1).text == "second"
    assert headway.inference("POST", path, json="explained").text == "False"  # the first stays the default
    assert headway.management("PUT", "/models/Echo/2.0/set-default").json() == {
        "status": 'Default version successfully updated for model "Echo" to "2.0"'
    }
    assert headway.inference("POST", path, json=1).text == "second"
    assert error(headway.inference("POST", path, json="die")) == (500, "InternalServerException", "Worker died.")
    assert [one["modelVersion"] for one in headway.management("GET", "/models/Echo/all").json()] == ["1.0", "2.0"]
    refused = headway.management("DELETE", "/models/Echo/2.0")
    assert error(refused) == (403, "InvalidModelVersionException", "Cannot remove default version for model Echo")
    assert headway.management("PUT", "/models/Echo/1.0/set-default").status_code == 200
    assert headway.management("DELETE", "/models/Echo/2.0").json() == {"status": 'Model "Echo" unregistered'}
    assert error(headway.inference("POST", f"{path}/2.0", json=1))[:2] == (404, "ModelVersionNotFoundException")
    assert headway.inference("POST", path, json="explained").text == "False"
    assert not (models / "Echo" / "2.0").exists()
    assert (models / "second.mar").exists()
    listed = headway.management("GET", "/models").json()
    assert [one["modelName"] for one in listed["models"]] == ["Echo", "named", "stream"]
    assert listed["models"][0] == {"modelName": "Echo", "modelUrl": "Echo.mar"}


def test_a_handler_describes_itself_and_the_metrics_port_has_counted(headway: Spoken) -> None:
    (described,) = headway.management("GET", "/models/Echo?customized=true").json()
    assert described["customizedMetadata"] == {"described": True}
    assert described["jobQueueStatus"]["pendingRequests"] == 0

    def counted() -> bool:
        text = httpx.get(headway.urls["torchserve.metrics"] + "/metrics", timeout=60).text
        return 'ts_inference_requests_total{model_name="Echo",model_version="default",' in text

    headway.inference("POST", "/predictions/Echo", json=1)
    wait_until(counted, timeout_s=10)


def test_an_archives_files_may_lie_in_the_folder_without_being_registered(headway: Spoken, tmp_path: Path) -> None:
    shutil.unpack_archive(headway.folder / "models" / "Echo.mar", tmp_path / "placed" / "1.0", format="zip")
    shutil.copytree(tmp_path / "placed", headway.folder / "models" / "placed")

    def served() -> bool:
        return headway.inference("POST", "/predictions/placed", json="explained").text == "False"

    wait_until(served, timeout_s=30)
    assert headway.management("DELETE", "/models/placed").status_code == 200
    assert headway.inference("POST", "/predictions/placed", json=1).status_code == 404
    assert (headway.folder / "models" / "placed" / "1.0" / "MAR-INF").is_dir()
    assert headway.management("GET", "/models/placed").status_code == 404
    assert headway.management("POST", "/models?url=placed/1.0&model_name=placed").status_code == 200
    assert headway.management("GET", "/models/placed").json()[0]["minWorkers"] == 0


def test_a_reply_that_is_under_way_when_the_api_stops_is_completed(headway: Spoken, tmp_path: Path) -> None:
    url, heard = headway.urls["torchserve.inference"] + "/predictions/stream", tmp_path / "heard"

    def stopped() -> bool:
        try:
            return httpx.get(f"{headway.data_url}/health", timeout=0.3).status_code != 200
        except httpx.TimeoutException:  # it waits for the next process
            return True
        except httpx.TransportError:
            return False

    with httpx.stream("POST", url, json={"first": "one", "last": "end", "after": str(heard)}, timeout=60) as answer:
        pieces = answer.iter_raw()
        assert next(pieces) == b"one"
        os.kill(headway.pid_of("api"), signal.SIGTERM)
        wait_until(stopped, timeout_s=10)
        heard.touch()
        assert b"".join(pieces) == b"\xffend"
