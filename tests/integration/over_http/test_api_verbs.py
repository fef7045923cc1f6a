"""What a client does with its prediction over HTTP: repeat a submission, cancel, retry, delete, list."""

import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import pytest
import redis

from headway import notices
from headway.clock import new_id
from headway.errors import ItemCode, ItemError
from headway.testing import wait_until
from tests.integration.over_http.test_api_http import UNKNOWN, problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.over_http.conftest import Api, PlayedWorker, Stack


def keyed(api: "Api", key: str, input_: Any = 1, **headers: str) -> httpx.Response:
    path = "/v1/models/echo/predictions"
    return api.client.post(path, json={"input": input_}, headers={"idempotency-key": key, **headers})


def do(api: "Api", id_: str, verb: str) -> httpx.Response:
    if verb == "delete":
        return api.client.delete(f"/v1/predictions/{id_}")
    return api.client.post(f"/v1/predictions/{id_}/{verb}")


def failure(body: bytes) -> ItemError:
    return ItemError(ItemCode.MODEL_ERROR, "no")


# Idempotency keys


def test_a_repeated_submission_is_answered_with_what_the_first_one_made(api: "Api", worker: "PlayedWorker") -> None:
    key = new_id()
    first = keyed(api, key)
    again = keyed(api, f'"{key}"')  # quoted is the same
    assert (first.status_code, again.status_code) == (202, 202)
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["location"] == first.headers["location"]
    assert again.json() == first.json()

    worker.run(first.json()["id"])
    ended = keyed(api, key)
    assert (ended.status_code, ended.json()["status"], ended.json()["output"]) == (200, "succeeded", 1)
    assert ended.headers["idempotency-replayed"] == "true"


def test_a_repeated_submission_can_wait_for_the_first_ones_end(api: "Api", worker: "PlayedWorker") -> None:
    key = new_id()
    id_ = keyed(api, key).json()["id"]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(keyed, api, key, prefer="wait=20")
        worker.run(id_)
        answer = waiting.result(20)
    assert (answer.status_code, answer.json()["id"], answer.json()["output"]) == (200, id_, 1)
    assert answer.headers["preference-applied"] == "wait=20"


def test_a_key_with_another_body_or_route_is_refused(api: "Api") -> None:
    key = new_id()
    keyed(api, key)
    body = problem(keyed(api, key, 2), 422, "idempotency_key_reused")
    assert body["errors"][0]["header"] == "Idempotency-Key"
    path = "/v1/models/echo/versions/1/predictions"
    elsewhere = api.client.post(path, json={"input": 1}, headers={"idempotency-key": key})
    problem(elsewhere, 422, "idempotency_key_reused")


def test_a_hundred_at_once_make_one(api: "Api", worker: "PlayedWorker") -> None:
    key = new_id()
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: keyed(api, key), range(100)))
    assert {answer.status_code for answer in answers} == {202}
    (id_,) = {answer.json()["id"] for answer in answers}
    assert sum("idempotency-replayed" not in answer.headers for answer in answers) == 1
    assert worker.queued().count(id_) == 1


def test_what_was_accepted_once_stays_so_whatever_became_of_the_model(stack: "Stack") -> None:
    """The repetition of a submission is answered even if the model would now be refused."""
    api, key = stack.api, new_id()
    path = "/v1/models/echo/versions/1/predictions"
    first = api.client.post(path, json={"input": 1}, headers={"idempotency-key": key})
    with stack.database.write() as connection:
        connection.exec_driver_sql("UPDATE versions SET error = 'gone' WHERE model = 'echo' AND version = '1'")
    try:
        wait_until(lambda: api.client.post(path, json={"input": 1}).status_code == 503, 10)
        again = api.client.post(path, json={"input": 1}, headers={"idempotency-key": key})
        assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])
    finally:
        with stack.database.write() as connection:
            connection.exec_driver_sql("UPDATE versions SET error = NULL WHERE model = 'echo' AND version = '1'")
        wait_until(lambda: api.client.post(path, json={"input": 1}).status_code == 202, 10)


@pytest.mark.parametrize("key", ['""', '"open', "tab\there", "k" * 256, "smörgås".encode().decode("latin-1")])
def test_a_key_that_makes_no_sense_is_refused(api: "Api", key: str) -> None:
    path = "/v1/models/echo/predictions"
    headers = {b"idempotency-key": key.encode("latin-1")}
    body = problem(api.client.post(path, json={"input": 1}, headers=headers), 422, "validation_failed")
    assert body["errors"][0]["header"] == "Idempotency-Key"


def test_an_answer_that_never_arrived_is_asked_for_again(new_stack: "Callable[..., Stack]", tmp_path: Any) -> None:
    """The API is killed with the submission in its hands; whatever it had done, the repetition makes one prediction."""
    stack = new_stack(f"sqlite:///{tmp_path}/headway.db")
    api = stack.api
    keys = [new_id() for _ in range(30)]
    for at, key in enumerate(keys):
        body = b'{"input":1}'  # byte for byte what is sent again
        head = (
            f"POST /v1/models/echo/predictions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
            f"idempotency-key: {key}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", api.port)) as connection:
            connection.sendall(head.encode() + body)
            if at == len(keys) - 1:
                os.kill(api.process.pid, signal.SIGKILL)
                api.process.wait()
    api.start()
    api.ready()
    answers = [keyed(api, key) for key in keys]
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 30
    assert sum(stack.worker.predictions.count_by_status().values()) == 30


# Cancel


def test_what_is_queued_is_canceled_and_whoever_waits_is_told(api: "Api", worker: "PlayedWorker") -> None:
    id_ = api.submit().json()["id"]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(api.client.get, f"/v1/predictions/{id_}", headers={"prefer": "wait=20"})
        canceled = do(api, id_, "cancel")
        assert waiting.result(10).json()["status"] == "canceled"
    assert (canceled.status_code, canceled.json()["status"]) == (200, "canceled")
    assert id_ not in worker.queued()
    again = do(api, id_, "cancel")
    assert (again.status_code, again.json()) == (200, canceled.json())


def test_what_runs_is_canceling_and_workers_are_told(stack: "Stack") -> None:
    api, worker = stack.api, stack.worker
    id_ = api.submit().json()["id"]
    claim = worker.claim(id_)
    with redis.Redis.from_url(stack.valkey.url) as client, client.pubsub(ignore_subscribe_messages=True) as heard:
        heard.subscribe(notices.CANCELS)
        heard.get_message(timeout=5)
        for _ in range(2):  # the first word may have been lost
            answer = do(api, id_, "cancel")
            assert (answer.status_code, answer.json()["status"]) == (202, "canceling")
            message = wait_until(lambda: heard.get_message(timeout=1), 10)
            assert notices.decode_ids(message["data"]) == [id_]
    worker.finish(claim, id_, answer=failure)
    assert api.client.get(f"/v1/predictions/{id_}").json()["status"] == "canceled"


def test_what_has_ended_is_not_canceled(api: "Api", worker: "PlayedWorker") -> None:
    id_ = api.submit().json()["id"]
    worker.run(id_)
    problem(do(api, id_, "cancel"), 409, "already_terminal")


def test_of_a_cancel_and_an_end_at_once_one_wins_and_the_other_is_told(api: "Api", worker: "PlayedWorker") -> None:
    ids = [api.submit().json()["id"] for _ in range(20)]
    claims = [worker.claim(id_) for id_ in ids]
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(do, api, id_, "cancel") for id_ in ids]
        for id_, claim in zip(ids, claims, strict=True):
            worker._bodies = {id_: b"1"}
            worker.finish(claim, id_)
    for id_, answer in zip(ids, answers, strict=True):
        assert answer.result().status_code in (202, 409)
        assert api.client.get(f"/v1/predictions/{id_}").json()["status"] == "succeeded"


# Retry


def test_what_failed_runs_again_under_its_id(stack: "Stack") -> None:
    api, worker = stack.api, stack.worker
    id_ = api.submit({"a": 1}, metadata={"k": "v"}).json()["id"]
    worker.run(id_, answer=failure)
    with redis.Redis.from_url(stack.valkey.url) as client:
        client.flushall()

        answer = do(api, id_, "retry")

        body = answer.json()
        assert (answer.status_code, body["status"], body["error"], body["attempt"]) == (202, "queued", None, 1)
        assert answer.headers["location"] == f"/v1/predictions/{id_}"
        assert body["metadata"] == {"k": "v"}
        wait_until(lambda: client.llen("headway:echo@2:1") == 1, 10, "its hint")
    problem(do(api, id_, "retry"), 409, "not_retryable")
    worker.run(id_)
    ended = api.client.get(f"/v1/predictions/{id_}").json()
    assert (ended["status"], ended["output"], ended["attempt"]) == ("succeeded", {"a": 1}, 2)
    problem(do(api, id_, "retry"), 409, "not_retryable")


def test_a_retried_prediction_owes_its_webhook_anew(stack: "Stack") -> None:
    api, worker = stack.api, stack.worker
    id_ = api.submit(webhook="http://127.0.0.1:9/hook").json()["id"]
    worker.run(id_, answer=failure)
    first = api.client.get(f"/v1/predictions/{id_}/deliveries").json()["data"]
    do(api, id_, "retry")
    worker.run(id_)
    both = api.client.get(f"/v1/predictions/{id_}/deliveries").json()["data"]
    assert [one["type"] for one in both] == ["prediction.failed", "prediction.succeeded"]
    assert both[0]["id"] == first[0]["id"] != both[1]["id"]
    assert api.client.get(f"/v1/predictions/{id_}").json()["webhook_status"] == "pending"


# Delete


def test_what_is_deleted_is_gone_and_known_to_be(api: "Api", worker: "PlayedWorker") -> None:
    key = new_id()
    id_ = keyed(api, key).json()["id"]
    problem(do(api, id_, "delete"), 409, "not_terminal")
    worker.run(id_)

    gone = do(api, id_, "delete")

    assert (gone.status_code, gone.content) == (204, b"")
    assert "content-length" not in gone.headers
    for answer in (
        api.client.get(f"/v1/predictions/{id_}"),
        api.client.get(f"/v1/predictions/{id_}/deliveries"),
        *(do(api, id_, verb) for verb in ("cancel", "retry", "delete")),
        keyed(api, key),
    ):
        problem(answer, 410, "prediction_purged")
    assert id_ not in [one["id"] for one in api.client.get("/v1/predictions").json()["data"]]


# Lists


def test_pages_follow_each_other_newest_first(api: "Api") -> None:
    ids = [api.submit(n).json()["id"] for n in range(5)]

    first = api.client.get("/v1/predictions", params={"limit": 2, "model": "echo"})

    body = first.json()
    assert (body["object"], body["has_more"], body["last_id"]) == ("list", True, ids[3])
    assert [one["id"] for one in body["data"]] == [ids[4], ids[3]]
    assert all("output" not in one and "input" not in one for one in body["data"])
    url, rel = first.headers["link"].split("; ")
    assert rel == 'rel="next"'
    second = api.client.get(url.strip("<>")).json()
    assert [one["id"] for one in second["data"]] == [ids[2], ids[1]]
    assert len(api.client.get("/v1/predictions").json()["data"]) <= 20


def test_a_list_can_be_narrowed(api: "Api", worker: "PlayedWorker") -> None:
    ids = [api.submit(n, version=1).json()["id"] for n in range(2)]
    do(api, ids[0], "cancel")
    found = api.client.get("/v1/predictions", params={"status": "canceled", "version": "1", "limit": 1}).json()
    assert [one["id"] for one in found["data"]] == ids[:1]
    assert api.client.get("/v1/predictions", params={"model": "nothing"}).json()["data"] == []


@pytest.mark.parametrize(
    ("parameters", "parameter"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "101"}, "limit"),
        ({"limit": "1e1"}, "limit"),
        ({"limit": "²"}, "limit"),
        ({"limit": "9" * 30}, "limit"),
        ({"status": "done"}, "status"),
        ({"model": "a\0b"}, "model"),
        ({"version": "V 1"}, "version"),
        ({"order": "asc"}, "order"),
    ],
)
def test_a_list_that_cannot_be_made_says_why(api: "Api", parameters: dict[str, str], parameter: str) -> None:
    body = problem(api.client.get("/v1/predictions", params=parameters), 422, "validation_failed")
    assert body["errors"][0]["parameter"] == parameter


@pytest.mark.parametrize("cursor", ["", "x", "0", UNKNOWN[:-1], UNKNOWN + "0", "'; DROP TABLE predictions"])
def test_a_cursor_that_is_not_ours_is_400(api: "Api", cursor: str) -> None:
    problem(api.client.get("/v1/predictions", params={"after": cursor}), 400, "invalid_cursor")


@pytest.mark.parametrize("verb", ["cancel", "retry", "delete"])
@pytest.mark.parametrize("id_", [UNKNOWN, "x", "0" * 36])
def test_a_verb_on_what_is_not_there_is_404(api: "Api", verb: str, id_: str) -> None:
    problem(do(api, id_, verb), 404, "prediction_not_found")


# Timeouts and progress


def test_a_prediction_may_have_less_time_than_its_model_and_not_more(api: "Api") -> None:
    assert api.submit(execution_timeout_seconds=60).status_code == 202
    body = problem(api.submit(execution_timeout_seconds=60.5), 422, "validation_failed")
    assert body["errors"][0]["pointer"] == "/execution_timeout_seconds"


def test_progress_shows_and_ends_a_wait_for_change(api: "Api", worker: "PlayedWorker") -> None:
    id_ = api.submit().json()["id"]
    claim = worker.claim(id_)
    running = api.client.get(f"/v1/predictions/{id_}")
    assert running.json()["progress"] is None
    with ThreadPoolExecutor(1) as pool:
        headers = {"prefer": "wait=20", "if-none-match": running.headers["etag"]}
        waiting = pool.submit(api.client.get, f"/v1/predictions/{id_}", headers=headers)
        said = msgspec.json.encode({"fraction": 0.4, "message": "warm"})
        worker.predictions.progress([(id_, claim, said)])
        answer = waiting.result(20)
    assert answer.json()["progress"] == {"fraction": 0.4, "message": "warm"}
    assert answer.json()["revision"] == running.json()["revision"] + 1
