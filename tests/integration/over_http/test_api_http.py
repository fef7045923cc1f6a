"""Every route over real HTTP: what is accepted, what is refused with which problem, and who is woken when."""

import asyncio
import itertools
import json
import select
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import redis
from fastapi.openapi.models import OpenAPI

from headway import broker
from headway.errors import ItemCode, ItemError
from headway.manifest import Manifest
from headway.testing import wait_until
from headway.versions import Found
from storage.models import Models

if TYPE_CHECKING:
    from tests.integration.over_http.conftest import Api, PlayedWorker, Stack

UNKNOWN = "01234567-89ab-7def-8123-456789abcdef"


def problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The body of a problem, after what holds for all of them."""
    assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json")
    body: dict[str, Any] = response.json()
    assert body["type"] == f"/problems/{code}"
    assert (body["code"], body["status"]) == (code, status)
    assert body["request_id"] == response.headers["x-request-id"]
    assert response.headers["cache-control"] == "no-store"
    return body


def test_a_submission_is_202_with_all_a_client_needs_to_come_back(api: "Api", worker: "PlayedWorker") -> None:
    response = api.submit({"text": "hé"}, metadata={"k": "v"}, priority=0, queue_timeout_seconds=60, max_attempts=7)
    body = response.json()
    assert response.status_code == 202
    assert response.headers["location"] == f"/v1/predictions/{body['id']}" == body["urls"]["get"]
    assert response.headers["retry-after"] == "1"
    assert response.headers["vary"] == "Prefer"
    assert response.headers["cache-control"] == "private, no-cache"
    assert (body["model"], body["version"], body["alias"]) == ("echo", "2", None)
    assert (body["status"], body["priority"], body["metadata"], body["max_attempts"]) == ("queued", 0, {"k": "v"}, 7)
    assert body["expires_at"] > body["created_at"]
    read = api.client.get(response.headers["location"], params={"include": "input"})
    place = read.json()["queue"]
    assert read.json() == {**body, "queue": place, "input": {"text": "hé"}}
    assert (body["queue"], place["position"] >= 0, place["eta_seconds"]) == (None, True, None)
    assert read.headers["etag"] == response.headers["etag"]


def test_a_version_is_chosen_by_path_field_or_alias(api: "Api") -> None:
    assert api.submit(version=1).json()["version"] == "1"
    assert api.submit(version="1").json()["version"] == "1"
    by_alias = api.submit(alias="stable").json()
    assert (by_alias["version"], by_alias["alias"]) == ("1", "stable")
    by_path = api.client.post("/v1/models/echo/versions/1/predictions", json={"input": 1})
    assert by_path.json()["version"] == "1"


ECHO, PAIR = "/v1/models/echo/predictions", "/v1/models/pair/predictions"
INVALID = "validation_failed"

REFUSED = {
    "unknown model": ("/v1/models/nope/predictions", b'{"input": 1}', 404, "model_not_found", None),
    "odd model": ("/v1/models/..%2f..%2fetc/predictions", b'{"input": 1}', 404, "not_found", None),
    "model with a colon": ("/v1/models/a:b/predictions", b'{"input": 1}', 404, "not_found", None),
    "unknown version": (ECHO, b'{"input": 1, "version": 7}', 404, "version_not_found", None),
    "unknown version in path": (
        "/v1/models/echo/versions/7:predict",
        b'{"instances": [1]}',
        404,
        "version_not_found",
        None,
    ),
    "unknown alias": (ECHO, b'{"input": 1, "alias": "x"}', 404, "alias_not_found", None),
    "alias of nothing": ("/v1/models/echo/aliases/gone:predict", b'{"instances": [1]}', 404, "version_not_found", None),
    "failed model": ("/v1/models/broken/predictions", b'{"input": 1}', 503, "unavailable", None),
    "NaN": (ECHO, b'{"input": NaN}', 400, "malformed_request", None),
    "too deep": (ECHO, b'{"input": ' + b"[" * 9000, 400, "malformed_request", None),
    "unknown field": (ECHO, b'{"input": 1, "status": 3}', 422, INVALID, "/status"),
    "version twice": (
        "/v1/models/echo/versions/1/predictions",
        b'{"input": 1, "version": 1}',
        422,
        INVALID,
        "/version",
    ),
    "wrong dtype": (PAIR, b'{"input": [1, "2"]}', 422, INVALID, "/input/1"),
    "wrong shape": (PAIR, b'{"input": {"x": [1, 2, 3]}}', 422, INVALID, "/input/x"),
    "unknown input": (PAIR, b'{"input": {"x": [1, 2], "y": 1}}', 422, INVALID, "/input/y"),
    "one bad instance": (
        "/v1/models/pair:predict",
        b'{"instances": [[1, 2], [true, 2]]}',
        422,
        INVALID,
        "/instances/1/0",
    ),
    "too large": (ECHO, b'{"input": "' + b"x" * 100_000 + b'"}', 413, "payload_too_large", None),
    "query": ("/v1/models/echo/predictions?wait=5", b'{"input": 1}', 422, INVALID, None),
}


@pytest.mark.parametrize(("path", "body", "status", "code", "pointer"), REFUSED.values(), ids=REFUSED)
def test_a_bad_submission_is_a_problem_and_nothing_is_stored(
    stack: "Stack", path: str, body: bytes, status: int, code: str, pointer: str | None
) -> None:
    before = stack.worker.predictions.count_by_status()
    response = stack.api.client.post(path, content=body, headers={"content-type": "application/json"})
    found = problem(response, status, code)
    if pointer is not None:
        assert found["errors"][0]["pointer"] == pointer
    assert "Traceback" not in response.text
    assert len(response.text) < 2000
    assert stack.worker.predictions.count_by_status() == before


@pytest.mark.parametrize("headers", [{"content-type": "text/plain"}, {"content-encoding": "gzip"}, {}])
def test_only_plain_json_is_taken(api: "Api", headers: dict[str, str]) -> None:
    for path in ("/v1/models/echo/predictions", "/v1/models/echo:predict"):
        if "content-encoding" in headers:
            headers = {**headers, "content-type": "application/json"}
        response = api.client.post(path, content=b'{"input": 1}', headers=headers)
        problem(response, 415, "unsupported_media_type")


def test_a_body_without_end_is_cut_off_at_the_limit(api: "Api") -> None:
    def endless() -> Any:
        for _ in range(50):
            yield b" " * 10_000

    response = api.client.post(
        "/v1/models/echo/predictions", content=endless(), headers={"content-type": "application/json"}
    )
    problem(response, 413, "payload_too_large")


def test_a_huge_content_length_is_refused_before_the_body_comes(api: "Api") -> None:
    with socket.create_connection(("127.0.0.1", api.port), timeout=10) as connection:
        connection.sendall(raw_post(ECHO, b"", 99_999_999_999))
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_a_client_who_sends_all_of_a_body_that_is_too_large_can_read_why_it_was_refused(api: "Api") -> None:
    body = b"x" * 20_000_000
    with socket.create_connection(("127.0.0.1", api.port), timeout=10) as connection:
        connection.sendall(raw_post(ECHO, b"", len(body)))
        refused = b""
        while not refused.endswith(b"}"):
            refused += connection.recv(65536)
        assert refused.startswith(b"HTTP/1.1 413 ")
        connection.sendall(body)
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert connection.recv(12) == b"HTTP/1.1 200"


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        (b"GET / HTTP/9\r\n\r\n", 400, b"malformed_request"),
        (b"\x16\x03\x01\x02", 400, b"malformed_request"),
        (b"GET /%b HTTP/1.1\r\nhost: x\r\n\r\n" % (b"x" * 9000), 414, b"uri_too_long"),
        (b"GET / HTTP/1.1\r\nhost: x\r\nx: %b\r\n\r\n" % (b"x" * 70_000), 431, b"headers_too_large"),
    ],
)
def test_what_is_no_request_is_a_problem_too(api: "Api", request_: bytes, status: int, code: bytes) -> None:
    answer = exchange(api, request_)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"application/problem+json" in answer
    assert b'"code":"%b"' % code in answer


def raw_post(path: str, body: bytes, length: int | None = None) -> bytes:
    return b"POST %b HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
        path.encode(),
        len(body) if length is None else length,
        body,
    )


def exchange(api: "Api", request: bytes) -> bytes:
    """Sends it and reads until the server closes."""
    with socket.create_connection(("127.0.0.1", api.port), timeout=10) as connection:
        connection.sendall(request)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
        return answer


def test_pipelined_requests_of_all_kinds_are_answered_in_their_order(api: "Api") -> None:
    host = b"host: localhost\r\n"
    unknown = UNKNOWN.encode()
    answers = exchange(
        api,
        raw_post("/v1/models/echo/predictions", b'{"input": 1}')
        + b"GET /health HTTP/1.1\r\n%b\r\n" % host
        + b"HEAD /v1/predictions/%b HTTP/1.1\r\n%b\r\n" % (unknown, host)
        + raw_post("/v1/models/echo/predictions", b'{"input": 2}')
        + b"GET /v1/predictions/%b HTTP/1.1\r\n%bconnection: close\r\n\r\n" % (unknown, host),
    )
    statuses = [piece[:3] for piece in answers.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [b"202", b"200", b"404", b"202", b"404"]


def test_a_body_that_comes_in_pieces_is_one_body_and_the_connection_goes_on(api: "Api") -> None:
    body = json.dumps({"input": ["x" * 1000] * 90}).encode()
    request = raw_post("/v1/models/echo/predictions", body)
    cuts = [0, 10, len(request) - len(body), len(request) - len(body) + 1, len(request) - 7, len(request)]
    with socket.create_connection(("127.0.0.1", api.port), timeout=10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(2):
            for start, end in itertools.pairwise(cuts):
                connection.sendall(request[start:end])
                assert not select.select([connection], [], [], 0.02)[0] or end == len(request)
            answer = b""
            while b'"urls"' not in answer:
                piece = connection.recv(65536)
                assert piece
                answer += piece
            assert answer.startswith(b"HTTP/1.1 202 ")
            id_ = json.loads(answer.partition(b"\r\n\r\n")[2])["id"]
            shown = api.client.get(f"/v1/predictions/{id_}", params={"include": "input"}).json()
            assert shown["input"] == json.loads(body)["input"]


def test_a_path_may_be_percent_encoded(api: "Api") -> None:
    id_ = api.submit().json()["id"]
    plain, encoded = (api.client.get(f"/v1/{name}/{id_}") for name in ("predictions", "%70redictions"))
    assert (plain.status_code, encoded.status_code) == (200, 200)
    assert (plain.json()["id"], encoded.headers["etag"]) == (encoded.json()["id"], plain.headers["etag"])


@pytest.mark.parametrize("id_", [UNKNOWN, UNKNOWN.upper(), "x", "..%2f..%2fetc", "%00", "%ff%fe", f"{UNKNOWN}%0a"])
def test_any_other_id_is_404(api: "Api", id_: str) -> None:
    response = api.client.get(f"/v1/predictions/{id_}")
    assert response.status_code == 404
    assert response.json()["code"] in ("prediction_not_found", "not_found")


GETS = ["/health", "/ready", "/docs", "/openapi.json", "/v1/models", "/v1/models/echo", "/v1/models/echo/versions",
        "/v1/models/echo/queue", "/problems/unavailable", "/static-offline-docs/swagger-ui.css"]  # fmt: skip


@pytest.mark.parametrize("path", GETS)
def test_head_stands_beside_every_get(api: "Api", path: str) -> None:
    head = api.client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["content-length"]) > 0
    assert api.client.get(path).status_code == 200


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("/v1/models/echo/predictions", "POST"),
        ("/v1/models/echo:predict", "POST"),
        (f"/v1/predictions/{UNKNOWN}", "DELETE, GET, HEAD"),
        ("/v1/models", "GET, HEAD"),
        ("/health", "GET, HEAD"),
        ("/docs", "GET, HEAD"),
    ],
)
@pytest.mark.parametrize("method", ["PATCH", "TRACE"])
def test_another_method_is_405_with_allow(api: "Api", method: str, path: str, allow: str) -> None:
    response = api.client.request(method, path)
    problem(response, 405, "method_not_allowed")
    assert response.headers["allow"] == allow


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/models/", "/v1/models/echo/", "/health/", "/v1/predictions/"])
def test_a_path_that_is_not_there_is_404(api: "Api", path: str) -> None:
    problem(api.client.get(path), 404, "not_found")


def test_a_request_id_is_echoed_on_every_path(api: "Api") -> None:
    for path in ("/health", "/nope", "/v1/models/echo", f"/v1/predictions/{UNKNOWN}"):
        assert api.client.get(path, headers={"x-request-id": "my-id.1"}).headers["x-request-id"] == "my-id.1"


def test_every_problem_is_described_under_its_type(api: "Api") -> None:
    described = api.client.get("/problems/wait_timeout").json()
    assert (described["code"], described["status"]) == ("wait_timeout", 504)
    problem(api.client.get("/problems/nonsense"), 404, "not_found")


def test_the_openapi_document_is_valid_and_has_examples_of_the_models(api: "Api") -> None:
    document = api.client.get("/openapi.json").json()
    OpenAPI.model_validate(document)
    assert document["openapi"].startswith("3.1")
    create = document["paths"]["/v1/models/{model}/predictions"]["post"]
    examples = create["requestBody"]["content"]["application/json"]["examples"]
    assert examples["pair"]["value"] == {"input": {"x": [0.0, 0.0]}}
    predict = document["paths"]["/v1/models/{model}:predict"]["post"]
    assert predict["requestBody"]["content"]["application/json"]["examples"]["pair"]["value"] == {
        "instances": [{"x": [0.0, 0.0]}]
    }
    assert set(create["responses"]) >= {"200", "202", "400", "404", "413", "415", "422", "503"}
    assert "200" in predict["responses"]
    assert "202" not in predict["responses"]
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    for reference in set(_references(document)):
        assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"]
    assert api.submit(examples["pair"]["value"]["input"], "pair").status_code == 202


def _references(value: Any) -> list[str]:
    if isinstance(value, dict):
        found = [value["$ref"]] if "$ref" in value else []
        return found + [reference for inner in value.values() for reference in _references(inner)]
    return [reference for inner in value for reference in _references(inner)] if isinstance(value, list) else []


def test_the_docs_ask_nobody_else_for_anything(api: "Api") -> None:
    page = api.client.get("/docs").text
    assert "http://" not in page
    assert "https://" not in page


def test_models_are_listed_with_their_versions_and_reasons(api: "Api") -> None:
    models = {model["name"]: model for model in api.client.get("/v1/models").json()["data"]}
    assert models["echo"]["latest"] == "2"
    assert models["echo"]["aliases"] == {"stable": "1", "gone": "9"}
    assert models["broken"]["state"] == "failed"
    assert models["broken"]["versions"][0]["reason"] == "model.py raises ImportError"
    assert models["pair"]["versions"][0]["inputs"] == {"x": {"dtype": "float32", "shape": [2]}}
    assert [v["version"] for v in api.client.get("/v1/models/echo/versions").json()["data"]] == ["1", "2"]
    problem(api.client.get("/v1/models/nope/queue"), 404, "model_not_found")


def test_the_queue_of_a_model_has_depth_and_age(api: "Api") -> None:
    api.submit([1, 2], "pair")
    queue = api.client.get("/v1/models/pair/queue").json()
    assert queue["depth"] >= 1
    assert 0 <= queue["oldest_age_seconds"] < 60
    assert queue["drain_rate"] == 0
    assert queue["versions"][0]["depth"] == queue["depth"]


def test_a_model_registered_a_moment_ago_is_found(stack: "Stack") -> None:
    problem(stack.api.submit(model="newborn"), 404, "model_not_found")
    found = Found(model="newborn", version="1", path=Path("/nowhere"), manifest=Manifest(), framework="python")
    Models(stack.database).register(found)
    assert stack.api.submit(model="newborn").status_code == 202


def in_thread(ask: Callable[[], httpx.Response]) -> Callable[[], httpx.Response]:
    """Asks while the test plays the worker; the answer is had by calling what this returns."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(ask)
    pool.shutdown(wait=False)
    return lambda: future.result(30)


# Predict


def predicting(
    api: "Api", instances: list[Any], prefer: str = "wait=20", path: str = "/v1/models/echo:predict"
) -> Callable[[], httpx.Response]:
    url, body = f"{api.url}{path}", {"instances": instances}
    return in_thread(lambda: httpx.post(url, json=body, headers={"prefer": prefer}, timeout=30))


@pytest.fixture
def empty(worker: "PlayedWorker") -> None:
    """Nothing waits in the line of echo 2 (the latest)."""
    worker.predictions.cancel_queued(worker.queued(), "default")


def arrived(worker: "PlayedWorker", count: int) -> list[str]:
    return wait_until(lambda: len(ids := worker.queued()) == count and ids, 10, f"{count} queued predictions") or []


@pytest.mark.usefixtures("empty")
def test_predict_answers_all_outputs_in_order(api: "Api", worker: "PlayedWorker") -> None:
    answer = predicting(api, [{"n": 1}, [2.50], None])
    ids = arrived(worker, 3)
    claim = worker.claim(*ids)
    worker.finish(claim, *reversed(ids))
    response = answer()
    assert response.status_code == 200
    assert response.text == '{"predictions":[{"n":1},[2.5],null]}'
    assert response.headers["preference-applied"] == "wait=20"


@pytest.mark.usefixtures("empty")
def test_an_output_too_large_for_a_notice_is_read_from_sql(api: "Api", worker: "PlayedWorker") -> None:
    answer = predicting(api, [1])
    large = json.dumps("x" * 50_000).encode()
    worker.run(*arrived(worker, 1), answer=lambda _: large)
    assert answer().content == b'{"predictions":[%b]}' % large


@pytest.mark.usefixtures("empty")
@pytest.mark.parametrize(
    ("item", "status", "code"),
    [
        (ItemCode.INVALID_INPUT, 422, "invalid_input"),
        (ItemCode.OUTPUT_INVALID, 422, "output_invalid"),
        (ItemCode.MODEL_ERROR, 500, "prediction_failed"),
        (ItemCode.WORKER_LOST, 500, "prediction_failed"),
    ],
)
def test_a_failed_instance_is_named_by_index(
    api: "Api", worker: "PlayedWorker", item: ItemCode, status: int, code: str
) -> None:
    answer = predicting(api, [1, "bad", 3])
    ids = arrived(worker, 3)
    worker.run(*ids, answer=lambda body: ItemError(item, "no") if body == b'"bad"' else body)
    found = problem(answer(), status, code)
    assert found["predictions"] == [{"index": 1, "id": ids[1], "code": item}]


@pytest.mark.usefixtures("empty")
def test_what_is_not_done_in_time_is_504_and_canceled_if_still_queued(api: "Api", worker: "PlayedWorker") -> None:
    answer = predicting(api, [1, 2, 3], prefer="wait=1")
    ids = arrived(worker, 3)
    worker.run(ids[0])
    worker.claim(ids[1])
    found = problem(answer(), 504, "wait_timeout")
    assert found["predictions"] == [
        {"index": 1, "id": ids[1], "code": "unfinished"},
        {"index": 2, "id": ids[2], "code": "canceled"},
    ]
    states = [api.client.get(f"/v1/predictions/{id_}").json()["status"] for id_ in ids]
    assert states == ["succeeded", "in_progress", "canceled"]


@pytest.mark.usefixtures("empty")
def test_what_a_caller_who_hung_up_left_queued_is_canceled(api: "Api", worker: "PlayedWorker") -> None:
    with socket.create_connection(("127.0.0.1", api.port)) as connection:
        connection.sendall(raw_post("/v1/models/echo:predict", b'{"instances": [1]}'))
        (id_,) = arrived(worker, 1)
    wait_until(lambda: api.client.get(f"/v1/predictions/{id_}").json()["status"] == "canceled", 5, "its cancel")


# Waiting


def test_wait_answers_200_as_soon_as_it_ends(api: "Api", worker: "PlayedWorker") -> None:
    id_ = api.submit("later").json()["id"]
    started = time.monotonic()
    with httpx.Client(base_url=api.url) as other:
        answer = in_thread(lambda: other.get(f"/v1/predictions/{id_}", headers={"prefer": "wait=20"}, timeout=30))
        worker.run(id_)
        response = answer()
    assert response.json()["status"] == "succeeded"
    assert response.json()["output"] == "later"
    assert response.json()["metrics"]["batch_size"] == 1
    assert response.headers["preference-applied"] == "wait=20"
    assert time.monotonic() - started < 10


@pytest.mark.usefixtures("empty")
def test_create_and_wait_is_200_with_the_output(api: "Api", worker: "PlayedWorker") -> None:
    answer = in_thread(
        lambda: httpx.post(f"{api.url}/v1/models/echo/predictions", json={"input": 7}, headers={"prefer": "wait=20"})
    )
    worker.run(*arrived(worker, 1))
    response = answer()
    assert (response.status_code, response.json()["output"]) == (200, 7)
    again = api.client.get(response.headers["location"])
    assert again.json() == response.json()
    assert again.headers["etag"] == response.headers["etag"]


def test_create_and_wait_too_short_is_202_with_the_present_state(api: "Api") -> None:
    started = time.monotonic()
    response = api.client.post("/v1/models/echo/predictions", json={"input": 7}, headers={"prefer": "wait=1"})
    assert response.status_code == 202
    assert response.headers["preference-applied"] == "wait=1"
    assert 0.9 < time.monotonic() - started < 5


def test_an_etag_is_304_until_something_changes(api: "Api", worker: "PlayedWorker") -> None:
    created = api.submit("x")
    path, tag = created.headers["location"], created.headers["etag"]
    unchanged = api.client.get(path, headers={"if-none-match": tag})
    assert (unchanged.status_code, unchanged.content, unchanged.headers["etag"]) == (304, b"", tag)
    waited = api.client.get(path, headers={"if-none-match": tag, "prefer": "wait=1"})
    assert waited.status_code == 304
    answer = in_thread(
        lambda: httpx.get(f"{api.url}{path}", headers={"if-none-match": tag, "prefer": "wait=20"}, timeout=30)
    )
    claim = worker.claim(path.rpartition("/")[2])
    claimed = answer()
    assert claimed.json()["status"] == "in_progress"  # claims send no notice: this was read from SQL
    worker.finish(claim, path.rpartition("/")[2])
    at_once = api.client.get(path, headers={"if-none-match": claimed.headers["etag"], "prefer": "wait=20"})
    assert at_once.json()["status"] == "succeeded"


def test_an_end_whose_notice_is_lost_is_found_in_sql(api: "Api", worker: "PlayedWorker") -> None:
    id_ = api.submit("quiet").json()["id"]
    answer = in_thread(lambda: httpx.get(f"{api.url}/v1/predictions/{id_}", headers={"prefer": "wait=20"}, timeout=30))
    worker.run(id_, notify=False)
    assert answer().json()["output"] == "quiet"


# Group commit


def test_callers_at_once_share_few_commits(api: "Api", worker: "PlayedWorker") -> None:
    async def submit_all() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=api.url, timeout=30) as client:
            return await asyncio.gather(
                *[client.post("/v1/models/echo/predictions", json={"input": n, "version": 1}) for n in range(64)]
            )

    before = api.metric("headway_api_commit_seconds_count")
    responses = asyncio.run(submit_all())
    assert {response.status_code for response in responses} == {202}
    assert len({response.json()["id"] for response in responses}) == 64
    assert api.metric("headway_api_commit_seconds_count") - before <= 32
    positions = [response.json()["created_at"] for response in responses]
    assert len(set(positions)) == 64


def test_clients_that_vanish_do_not_end_the_committer(api: "Api") -> None:
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", api.port)) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset, not a close
            connection.sendall(raw_post(ECHO, b'{"input": 1}'))
    assert api.submit().status_code == 202


def test_hints_of_a_group_lie_in_the_broker_by_line(stack: "Stack") -> None:
    client = redis.Redis.from_url(stack.valkey.url)
    line = broker.line("pair", "1", 9)
    client.delete(line)
    created = [stack.api.submit([n, n], "pair", priority=9).json()["id"] for n in range(3)]
    wait_until(lambda: client.llen(line) == 3, 5, "three envelopes")
    envelopes = [broker.decode_body(json.loads(message)["body"]) for message in reversed(client.lrange(line, 0, -1))]
    client.close()
    assert [id_ for envelope in envelopes for id_ in envelope.ids] == created
    assert envelopes[0].priorities == [9]
    assert envelopes[0].sizes == [1]
