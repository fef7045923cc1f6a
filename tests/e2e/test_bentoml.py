"""BentoML's services, stored models and tasks, as its clients ask for them; and what its real server has answered."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import httpx
import joblib
import numpy as np
import pytest
import redis
from sklearn.linear_model import LogisticRegression

from headway.running import RunningHeadway
from headway.testing import wait_until
from tests import bentos
from tests.bentos import BATCHED
from tests.dialects import building, comparing, recording
from tests.dialects.servers import MODELS
from tests.receiver import Receiver

TIMES = """
from headway import Model

class Times(Model):
    def predict(self, inputs):
        return [2 * number for number in inputs]
"""
PAIRS = """
from headway import Model

class Pairs(Model):
    def predict(self, inputs):
        return [{"sum": one["a"].sum(), "size": len(inputs)} for one in inputs]
"""
PAIRS_TOML = '[inputs.a]\ndtype = "float32"\nshape = [2]\n[batching]\nmax_wait_ms = 50\n'


class Spoken(RunningHeadway):
    """With a client for BentoML's port."""

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        return httpx.request(method, self.urls["bentoml.http"] + path, timeout=60, **more)

    def call(self, path: str, value: Any, **more: Any) -> Any:
        return self.ask("POST", path, json=value, **more).json()

    def read(self, path: str) -> Any:
        return self.ask("GET", path).json()

    def ended(self, path: str, task: str) -> str:
        def status() -> str:
            said: str = self.ask("GET", f"{path}/status?task_id={task}").json()["status"]
            return said if said not in ("pending", "in_progress") else ""

        return wait_until(status, 30, f"the end of {task}")


@pytest.fixture(scope="module")
def headway(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[Spoken]:
    folder = tmp_path_factory.mktemp("bentoml")
    models = folder / "models"
    shutil.copytree(MODELS / "bentoml", models)
    rows, classes = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]), [0, 0, 1, 1]
    for version, fit in (("first", [1, 1, 0, 0]), ("k7x2", classes)):
        signatures: dict[str, object] = {"predict": BATCHED, "predict_proba": BATCHED}
        stored = bentos.stored(models, "iris", version, "bentoml.sklearn", signatures=signatures)
        joblib.dump(LogisticRegression().fit(rows, fit), stored / "saved_model.pkl")
    bentos.trusted(models, "iris")
    for name, file, source in (
        ("times", "model.py", TIMES),
        ("pairs", "model.py", PAIRS),
        ("petals", "service.py", FLOWERS),
        ("composed", "service.py", COMPOSED),
    ):
        (models / name / "1").mkdir(parents=True)
        (models / name / "1" / file).write_text(source)
    (models / "pairs" / "model.toml").write_text(PAIRS_TOML)
    redis.Redis.from_url(redis_url).flushall()
    options = ["--redis-url", redis_url, "--dialect", "bentoml=0"]
    up = Spoken(folder, options=options, environ={"HEADWAY_WEBHOOK_ALLOW": "127.0.0.0/8"})
    with up:
        wait_until(lambda: up.ask("GET", "/readyz").status_code == 200, 60, "the services to be loaded")
        yield up


COMPOSED = """
import bentoml

@bentoml.service
class Inner:
    @bentoml.api
    def f(self) -> int:
        return 1

@bentoml.service
class Outer:
    inner = bentoml.depends(Inner)
"""
FLOWERS = """
import time
from pathlib import Path
from typing import AsyncGenerator

import bentoml

with bentoml.importing():
    import numpy as np

image = bentoml.images.Image(python_version="3.11").python_packages("numpy")

@bentoml.service(traffic={"timeout": 50}, image=image, envs=[{"name": "A"}])
class Flowers:
    stored = bentoml.models.BentoModel("iris:k7x2")

    def __init__(self) -> None:
        self.model = bentoml.sklearn.load_model(self.stored)

    @bentoml.on_startup
    def begin(self) -> None:
        self.names = ["small", "large"]

    @bentoml.api(batchable=True)
    async def name_of(self, rows: np.ndarray) -> list[str]:
        return [self.names[one] for one in self.model.predict(rows)]

    @bentoml.api
    def add(self, a: int) -> str:
        return "the other add"

    @bentoml.api
    async def tell(self, first: str, after: str, fail: bool = False) -> AsyncGenerator[str, None]:
        yield first
        until = time.monotonic() + 20
        while after and not Path(after).exists() and time.monotonic() < until:
            time.sleep(0.005)
        if fail:
            raise ValueError("behind the first piece")
        yield "é" * 100_000
"""


@pytest.mark.parametrize("system", ["bentoml", "bentoml_tasks"])
def test_ours_answers_what_the_real_server_answered(headway: Spoken, system: str) -> None:
    recorded = [case for case in recording.recorded(system).cases if not case.slow]
    ports = {"inference": headway.urls["bentoml.http"]}
    ours = recording.ask(recorded, ports, recording.volatile(system, headway.folder / "models"))
    verdict = comparing.judge(system, recorded, ours)
    assert not verdict.unexpected, "\n".join(map(str, verdict.unexpected))


CLIENTS = building.folder("bentoml") / "bin" / "python"


@pytest.mark.skipif(not CLIENTS.exists(), reason="bentoml is not built: python -m tests.dialects build bentoml")
def test_bentomls_own_clients_work_unmodified(headway: Spoken, tmp_path: Path) -> None:
    script = Path(__file__).resolve().parents[1] / "dialects" / "clients" / "bentoml_calls.py"
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environ |= {"BENTOML_HOME": str(tmp_path), "BENTOML_DO_NOT_TRACK": "True"}
    command = [str(CLIENTS), str(script), headway.urls["bentoml.http"]]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    said: dict[str, Any] = {}
    for line in done.stdout.splitlines():
        said |= json.loads(line)
    assert said == {
        "add": 3.5,
        "greet": {"text": "Hello Ada", "years": 36},
        "double": [[2, 4]],
        "whole": 3.5,
        "text": "héy",
        "stored": [0, 1],
        "completed": "completed",
        "result": {"slept": 0.1, "then": "done"},
        "retried": [True, "completed"],
        "canceled": "canceled",
        "failed": "failed",
        "why": [{"error": "asked to be bad"}],
        "own": ["completed", 6],
        "sync": [3.0, [1, 4], True],
        "refused": "1 validation error for Input",
    }


def test_a_stored_model_has_a_route_for_each_method_and_its_latest_file_decides(headway: Spoken) -> None:
    rows = {"data": [[0.0, 0.0], [3.0, 3.0]]}
    assert headway.call("/iris", rows) == [0, 1]
    assert headway.call("/iris", rows["data"]) == [0, 1]
    for path in ("/iris/predict_proba", "/predict_proba"):
        probabilities = np.array(headway.call(path, rows))
        assert probabilities.shape == (2, 2)
        assert probabilities.argmax(axis=1).tolist() == [0, 1]
    shown = httpx.get(f"{headway.data_url}/v1/models/iris").json()
    assert shown["latest"] == "k7x2"
    older = httpx.post(
        f"{headway.data_url}/v1/models/iris/versions/first:predict", json={"instances": [rows]}, timeout=60
    )
    assert older.json() == {"predictions": [[1, 0]]}
    (headway.folder / "models" / "iris" / "latest").write_text("first")
    wait_until(lambda: headway.call("/iris", rows) == [1, 0], 20, "the other version to be the latest")
    assert headway.call("/iris/predict_proba", rows) != probabilities.tolist()
    url = f"{headway.data_url}/v1/models/iris/versions/k7x2/predictions"
    assert (
        httpx.post(url, json={"input": {"data": [[1.0]]}}, timeout=60).status_code == 422
    )  # its inputs are known still


def test_requests_of_a_stored_model_are_joined_row_by_row(headway: Spoken) -> None:
    small, large = headway.call("/iris", {"data": [[0.0, 0.0], [3.0, 3.0]]})

    def one(count: int) -> list[int]:
        answer: list[int] = headway.call("/iris", {"data": [[0.0, 0.0]] * count + [[3.0, 3.0]]})
        return answer

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(one, [1, 2, 3, 4] * 6))
    assert answers == [[small] * count + [large] for count in [1, 2, 3, 4] * 6]
    sizes = [line for line in headway.ask("GET", "/metrics").text.splitlines() if "adaptive_batch_size_count" in line]
    assert any('service_name="iris"' in line for line in sizes)


def test_any_other_model_has_a_route_too_and_takes_one_input_or_rows_of_them(headway: Spoken) -> None:
    assert headway.call("/times", 21) == 42
    assert headway.ask("POST", "/times", content="ab", headers={"content-type": "text/plain"}).json() == "abab"
    single = headway.call("/pairs", {"a": [1, 2]})
    assert single["sum"] == 3
    rows = headway.call("/pairs", {"a": [[1, 2], [3, 4], [5, 6]]})
    assert [row["sum"] for row in rows] == [3, 7, 11]
    refused = headway.ask("POST", "/pairs", json={"a": [1, 2, 3]})
    assert refused.status_code == 400
    assert refused.json()["detail"][0]["loc"] == ["a"]
    task = headway.ask("POST", "/pairs/submit", json={"a": [[1, 2], [3, 4]]})
    assert (task.status_code, task.json()) == (400, [{"error": "a task is one prediction, and these are 2 rows"}])
    routes = {route["name"]: route for route in headway.ask("GET", "/schema.json").json()["routes"]}
    assert routes["pairs"]["input"]["properties"]["a"] == {
        "title": "a", "dtype": "float32", "format": "numpy-array", "type": "tensor",
    }  # fmt: skip
    assert {"add", "slow", "iris", "iris_predict_proba", "predict", "times"} <= routes.keys()
    paths = headway.ask("GET", "/docs.json").json()["paths"]
    assert {"/add", "/slow/submit", "/iris", "/livez"} <= paths.keys()


def test_one_bad_request_of_a_batch_fails_alone(headway: Spoken) -> None:
    values = [[1], [-1], [2], [3]] * 3
    with ThreadPoolExecutor(12) as threads:
        replies = list(threads.map(lambda rows: headway.ask("POST", "/squares", json={"rows": rows}), values))
    assert [reply.status_code for reply in replies] == [200, 500, 200, 200] * 3
    assert [reply.json() for reply in replies if reply.status_code == 200] == [[1], [4], [9]] * 3


def test_a_task_survives_a_crash_of_everything_that_computes(headway: Spoken) -> None:
    task = headway.call("/slow/submit", {"seconds": 0.7})["task_id"]
    wait_until(
        lambda: headway.ask("GET", f"/slow/status?task_id={task}").json()["status"] == "in_progress", 20, "its begin"
    )
    os.kill(headway.pid_of("worker"), signal.SIGKILL)
    assert headway.ended("/slow", task) == "completed"
    assert headway.read(f"/slow/get?task_id={task}") == {"slept": 0.7, "then": "done"}


def submitted(headway: Spoken) -> str:
    task: str = headway.call("/slow/submit", {"seconds": 0.0})["task_id"]
    return task


def asynchronously(headway: Spoken, path: str, value: Any) -> str:
    """Where its prediction is."""
    answer = headway.ask("POST", path, json=value, headers={"Prefer": "respond-async"})
    assert answer.status_code == 202
    return f"{headway.data_url}{httpx.URL(answer.headers['location']).path}"


def ended(url: str) -> Any:
    return httpx.get(url, headers={"Prefer": "wait=30"}, timeout=60).json()


def held(headway: Spoken) -> str:
    """A task that nobody has begun in a second; empty where somebody has."""
    task = submitted(headway)
    url = f"{headway.data_url}/v1/predictions/{task}"
    return task if httpx.get(url, headers={"Prefer": "wait=1"}, timeout=60).json()["status"] == "queued" else ""


def test_a_queued_task_is_pending_and_its_cancel_is_at_once(headway: Spoken) -> None:
    queue = f"{headway.control_url}/v1/models/measures/queue"
    httpx.post(f"{queue}/pause").raise_for_status()
    try:
        first, second = wait_until(lambda: held(headway), 20, "the workers to heed the pause"), submitted(headway)
        shown = {"task_id": second, "status": "pending", "created_at": ANY, "executed_at": None}
        assert headway.read(f"/slow/status?task_id={second}") == shown
        for _ in range(2):
            canceled = headway.ask("PUT", f"/slow/cancel?task_id={second}")
            assert (canceled.status_code, canceled.json()) == (200, {"task_id": second, "status": "canceled"})
        assert headway.read(f"/slow/get?task_id={second}") == {"error": f"task {second} is canceled"}
        again = headway.ask("POST", f"/slow/retry?task_id={second}").json()["task_id"]
        joined = [asynchronously(headway, "/squares", {"rows": [number]}) for number in (2, 3)]
        alone = [asynchronously(headway, "/add", {"a": number}) for number in (2, 3)]
    finally:
        httpx.post(f"{queue}/resume").raise_for_status()
    for task in (first, again):
        assert headway.ended("/slow", task) == "completed"
    assert [ended(url)["metrics"]["batch_size"] for url in alone] == [1, 1]  # who is not joined waits for nobody else
    assert [ended(url)["output"] for url in joined] == [[4], [9]]
    refused = headway.ask("PUT", f"/slow/cancel?task_id={first}")
    assert (refused.status_code, refused.json()) == (400, {"error": f"task {first} is completed already"})


def test_a_task_has_a_webhook_and_a_key_that_makes_it_safe_to_repeat(headway: Spoken) -> None:
    with contextlib.closing(Receiver()) as receiver:
        headers = {"X-Headway-Webhook": receiver.url, "Idempotency-Key": "once"}
        tasks = {headway.call("/jobs/text/submit", {"text": "abc"}, headers=headers)["task_id"] for _ in range(3)}
        assert len(tasks) == 1
        (task,) = tasks
        wait_until(lambda: receiver.got, 20, "the webhook")
    assert headway.ask("GET", f"/jobs/text/get?task_id={task}").text == "cba"
    native = httpx.get(f"{headway.data_url}/v1/predictions/{task}").json()
    assert (native["status"], native["output"]) == ("succeeded", "cba")
    other = headway.ask("GET", f"/iris/get?task_id={task}")
    assert (other.status_code, other.json()) == (404, {"error": "task_id not found"})


def test_a_plain_call_may_be_a_job_and_native_clients_call_the_service(headway: Spoken) -> None:
    answer = headway.ask("POST", "/add", json={"a": 1}, headers={"X-Headway-Async": "true"})
    assert answer.status_code == 202
    url = f"{headway.data_url}{httpx.URL(answer.headers['location']).path}"
    assert httpx.get(url, headers={"Prefer": "wait=30"}, timeout=60).json()["output"] == 3.5
    native = f"{headway.data_url}/v1/models/measures:predict"
    reply = httpx.post(native, json={"instances": [{"add": {"a": 2}}, {"total": [1, 2]}]}, timeout=60)
    assert reply.json() == {"predictions": [4.5, 3.0]}


def test_a_service_loads_models_of_the_store_beside_it_and_keeps_its_own_route(headway: Spoken) -> None:
    assert headway.call("/name_of", {"rows": [[0.0, 0.0], [3.0, 3.0]]}) == ["small", "large"]
    assert headway.call("/add", {"a": 1}) == 3.5  # the first service by name has the route
    other = headway.ask("POST", "/petals/add", json={"a": 1})
    assert (other.text, other.headers["content-type"]) == ("the other add", "text/plain; charset=utf-8")
    names = [route["name"] for route in headway.read("/schema.json")["routes"]]
    assert {"add", "petals_add", "name_of"} <= set(names)


def test_an_api_that_yields_is_answered_piece_by_piece(headway: Spoken, tmp_path: Path) -> None:
    url, heard = headway.urls["bentoml.http"] + "/tell", tmp_path / "heard"
    with httpx.stream("POST", url, json={"first": "one ", "after": str(heard)}, timeout=60) as answer:
        assert (answer.status_code, answer.headers["transfer-encoding"]) == (200, "chunked")
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        pieces = answer.iter_text()
        assert next(pieces) == "one "
        heard.touch()
        assert "".join(pieces) == "é" * 100_000
    whole = headway.ask("POST", "/tell", json={"first": "", "after": ""})
    assert whole.text == "é" * 100_000
    heard.unlink()
    with httpx.stream("POST", url, json={"first": "one", "after": str(heard), "fail": True}, timeout=60) as answer:
        pieces = answer.iter_text()
        assert next(pieces) == "one"
        heard.touch()
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            next(pieces)


def test_what_is_not_there_of_bentoml_is_the_reason_why_a_service_does_not_load(headway: Spoken) -> None:
    def reason() -> str | None:
        versions = httpx.get(f"{headway.data_url}/v1/models/composed").json()["versions"]
        return versions[0]["reason"] if versions[0]["state"] == "failed" else None

    said = wait_until(reason, 20, "the service to fail")
    assert said == "bentoml.depends is not there: a service of Headway's is one class with APIs and tasks"
    assert headway.ask("POST", "/f").status_code == 404


def test_metrics_have_bentomls_names(headway: Spoken) -> None:
    headway.call("/add", {"a": 1})
    text = headway.ask("GET", "/metrics").text
    labels = 'endpoint="/add",runner_name="measures",service_name="measures",service_version="not available"'
    assert f'bentoml_service_request_total{{{labels},http_response_code="200"}}' in text
    assert f"bentoml_service_request_in_progress{{{labels}}} 0.0" in text
    assert f'bentoml_service_request_duration_seconds_bucket{{{labels},http_response_code="200",le="+Inf"}}' in text
