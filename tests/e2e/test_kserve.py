"""KServe's and MLServer's protocols: what the real servers answered, replayed, and what is Headway's own beside it."""

import gzip
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import redis
import tritonclient.grpc
import tritonclient.http

from headway.running import RunningHeadway
from headway.testing import wait_until
from tests.dialects import comparing, folders, recording
from tests.dialects.ours import Ours
from tests.receiver import Receiver

ADD = """
from headway import Model

class Add(Model):
    def predict(self, inputs):
        return [{"sum": float(one["a"] + one["b"])} for one in inputs]
"""
ADDS = """
[inputs.a]
dtype = "float32"
[inputs.b]
dtype = "float32"
[outputs.sum]
dtype = "float32"
"""
ANYTHING = """
from headway import Model, InvalidInput

class Anything(Model):
    def predict(self, inputs):
        return [InvalidInput("not this") if one == "bad" else {"was": one} for one in inputs]
"""
OWN = {"add": (ADD, ADDS), "anything": (ANYTHING, "")}
A, B = [5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]


class Spoken(RunningHeadway):
    """With a client for each of the ports."""

    def kserve(self, method: str, path: str, **more: Any) -> httpx.Response:
        return httpx.request(method, self.urls["kserve.http"] + path, timeout=60, **more)

    def mlserver(self, method: str, path: str, **more: Any) -> httpx.Response:
        return httpx.request(method, self.urls["mlserver.http"] + path, timeout=60, **more)


@pytest.fixture(scope="module")
def headway(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[Spoken]:
    folder = tmp_path_factory.mktemp("kserve")
    models = folder / "models"
    models.mkdir()
    for system in ("kserve", "mlserver"):
        folders.build(system, models, Path(sys.executable), quick=True)
    for name, (code, manifest) in OWN.items():
        version = models / name / "1"
        version.mkdir(parents=True)
        (version / "model.py").write_text(code)
        (models / name / "model.toml").write_text(manifest)
    redis.Redis.from_url(redis_url).flushall()
    options = ["--redis-url", redis_url]
    for dialect in ("kserve=0,0", "mlserver=0,0", "oip=0"):
        options += ["--dialect", dialect]
    up = Spoken(folder, options=options, environ={"HEADWAY_WEBHOOK_ALLOW": "127.0.0.0/8"})
    with up:
        yield up


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


def tensor(data: list[list[float]], name: str = "x") -> dict[str, Any]:
    flat = [number for row in data for number in row]
    return {"name": name, "datatype": "FP32", "shape": [len(data), len(data[0])], "data": flat}


@pytest.mark.parametrize("system", ["kserve", "mlserver"])
def test_ours_answers_what_the_real_server_answered(headway: Spoken, system: str) -> None:
    recorded = [case for case in recording.recorded(system).cases if not case.slow]
    ours = Ours(headway, headway.folder / "models")
    verdict = comparing.judge(system, recorded, ours.ask(system, recorded))
    assert not verdict.unexpected, "\n".join(map(str, verdict.unexpected))


def test_each_instance_for_a_model_of_headway_s_own_is_a_prediction(headway: Spoken) -> None:
    instances = [{"a": 1, "b": 2}, {"a": 3, "b": 4.5}]
    answer = headway.kserve("POST", "/v1/models/add:predict", json={"instances": instances})
    assert (answer.status_code, answer.json()) == (200, {"predictions": [{"sum": 3.0}, {"sum": 7.5}]})
    listed = httpx.get(f"{headway.data_url}/v1/predictions?model=add").json()["data"]
    assert len(listed) == 2
    empty = headway.kserve("POST", "/v1/models/anything:predict", json={"instances": []})
    assert empty.json() == {"predictions": []}


def test_an_instance_that_does_not_fit_is_refused_with_its_place(headway: Spoken) -> None:
    instances = [{"a": 1, "b": 2}, {"a": "x", "b": 4.5}]
    answer = headway.kserve("POST", "/v1/models/add:predict", json={"instances": instances})
    assert answer.status_code == 400
    assert answer.json() == {"error": "/1/a is a string, 'x', and should be float32."}


def test_what_a_model_refuses_is_the_client_s_fault(headway: Spoken) -> None:
    answer = headway.kserve("POST", "/v1/models/anything:predict", json={"instances": ["good", "bad"]})
    assert (answer.status_code, answer.json()) == (400, {"error": "not this"})


def test_more_instances_than_there_may_be_are_refused(headway: Spoken) -> None:
    answer = headway.kserve("POST", "/v1/models/anything:predict", json={"instances": [0] * 4097})
    assert (answer.status_code, answer.json()) == (400, {"error": "there are 4097 instances, and may be 4096"})


def test_the_second_protocol_reaches_a_model_of_headway_s_own(headway: Spoken) -> None:
    inputs = [{"name": name, "datatype": "FP32", "shape": [2], "data": [1, 2]} for name in "ab"]
    answer = headway.kserve("POST", "/v2/models/add/infer", json={"id": "7", "inputs": inputs}).json()
    assert answer["id"] == "7"
    assert answer["outputs"] == [
        {"name": "sum", "shape": [2], "datatype": "FP32", "parameters": None, "data": [2.0, 4.0]}
    ]
    answer = headway.mlserver("POST", "/v2/models/add/infer", json={"inputs": inputs}).json()
    assert answer["model_version"] == "1"
    assert answer["outputs"] == [
        {"name": "sum", "shape": [2, 1], "datatype": "FP32", "parameters": {"content_type": "np"}, "data": [2.0, 4.0]}
    ]
    shown = headway.kserve("GET", "/v2/models/add").json()
    assert shown["inputs"][0] == {"name": "a", "datatype": "FP32", "shape": [-1]}


def test_a_request_becomes_a_job_that_a_webhook_is_told_of_once(headway: Spoken, receiver: Receiver) -> None:
    headers = {
        "X-Headway-Async": "true",
        "X-Headway-Webhook": receiver.url,
        "Idempotency-Key": "only-once",
    }
    body = {"instances": [A]}
    first = headway.kserve("POST", "/v1/models/iris:predict", json=body, headers=headers)
    again = headway.kserve("POST", "/v1/models/iris:predict", json=body, headers=headers)
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.headers["location"] == again.headers["location"]
    wait_until(lambda: receiver.got, 20, "the webhook")
    (told,) = [one.event for one in receiver.got]
    assert told["data"]["output"] == {"predictions": [0]}
    done = httpx.get(first.headers["location"]).json()
    assert (done["status"], done["output"]) == ("succeeded", {"predictions": [0]})


def test_a_job_of_mlserver_s_has_its_outputs(headway: Spoken) -> None:
    asked = {"inputs": [tensor([A, B])], "outputs": [{"name": "predict"}]}
    answer = headway.mlserver("POST", "/v2/models/petals/infer", json=asked, headers={"Prefer": "respond-async"})
    assert answer.status_code == 202
    done = httpx.get(answer.headers["location"], headers={"Prefer": "wait=20"}).json()
    (output,) = done["output"]["outputs"]
    assert (output["name"], output["shape"], output["data"]) == ("predict", [2, 1], [0, 2])


def test_several_instances_are_no_job(headway: Spoken) -> None:
    headers = {"X-Headway-Async": "true"}
    answer = headway.kserve(
        "POST", "/v1/models/add:predict", json={"instances": [{"a": 1, "b": 2}] * 2}, headers=headers
    )
    assert answer.status_code == 400
    assert "a job is one prediction" in answer.json()["error"]


def test_headway_s_own_port_takes_the_request_as_the_input(headway: Spoken) -> None:
    url = f"{headway.data_url}/v1/models/{{}}/predictions"
    for model, asked, wanted in (
        ("iris", {"instances": [B]}, {"predictions": [2]}),
        ("words", {"instances": "no"}, None),
    ):
        done = httpx.post(url.format(model), json={"input": asked}, headers={"Prefer": "wait=20"}).json()
        assert done["output"] == wanted, done


@pytest.mark.parametrize("port", ["kserve", "mlserver", "oip"])
def test_tritons_client_as_it_comes_reaches_both_kinds_of_folders(headway: Spoken, port: str) -> None:
    with tritonclient.http.InferenceServerClient(headway.urls[f"{port}.http"].removeprefix("http://")) as client:
        given = tritonclient.http.InferInput("x", (2, 4), "FP32")
        given.set_data_from_numpy(np.array([A, B], np.float32))
        assert client.is_model_ready("iris")
        assert client.get_model_metadata("iris")["inputs"] == []
        assert client.infer("iris", [given]).as_numpy("output-0").tolist() == [0, 2]
        assert client.infer("petals", [given]).as_numpy("predict").tolist() == [[0], [2]]


@pytest.mark.parametrize("dialect", ["kserve", "mlserver"])
def test_the_second_port_is_the_protocol_s_grpc(headway: Spoken, dialect: str) -> None:
    with tritonclient.grpc.InferenceServerClient(headway.urls[f"{dialect}.grpc"].removeprefix("http://")) as client:
        given = tritonclient.grpc.InferInput("x", (1, 4), "FP64")
        given.set_data_from_numpy(np.array([B]))
        assert client.infer("iris", [given]).as_numpy("output-0").tolist() == [2]
        assert client.infer("petals", [given]).as_numpy("predict").tolist() == [[2]]


def test_many_callers_of_one_model_are_all_answered(headway: Spoken) -> None:
    def ask(number: int) -> Any:
        row = A if number % 2 else B
        rows = [row] * (1 + number % 3)
        return headway.kserve("POST", "/v1/models/iris:predict", json={"instances": rows}).json()["predictions"]

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(64)))
    assert answers == [[0 if number % 2 else 2] * (1 + number % 3) for number in range(64)]


def test_a_stream_of_mlserver_s_is_one_event(headway: Spoken) -> None:
    answer = headway.mlserver("POST", "/v2/models/petals/infer_stream", json={"inputs": [tensor([A])]})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.startswith('data: {"model_name":"petals"')
    assert answer.text.endswith("\n\n")


def test_a_gzipped_body_is_read_as_mlserver_reads_it(headway: Spoken) -> None:
    body = gzip.compress(json.dumps({"inputs": [tensor([A])]}).encode())
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    answer = headway.mlserver("POST", "/v2/models/petals/infer", content=body, headers=headers)
    assert answer.json()["outputs"][0]["data"] == [0]
    answer = headway.mlserver("POST", "/v2/models/petals/infer", content=body[:-9], headers=headers)
    assert (answer.status_code, answer.json()) == (400, {"error": "the body ends within its gzip"})


def test_metrics_count_requests_under_kserve_s_names(headway: Spoken) -> None:
    headway.kserve("POST", "/v1/models/iris:predict", json={"instances": [A]})
    text = headway.kserve("GET", "/metrics").text
    assert "# TYPE request_predict_seconds histogram" in text
    assert 'request_predict_seconds_count{model_name="iris"}' in text
    assert 'request_preprocess_seconds_bucket{le="+Inf",model_name="iris"}' in text


def test_an_unknown_version_and_a_method_that_is_none(headway: Spoken) -> None:
    answer = headway.kserve("POST", "/v2/models/iris/versions/9/infer", json={"inputs": [tensor([A])]})
    assert (answer.status_code, answer.json()) == (404, {"error": "Model with name iris and version 9 does not exist."})
    answer = headway.kserve("PUT", "/v1/models/iris:predict")
    assert (answer.status_code, answer.json()) == (405, {"detail": "Method Not Allowed"})
