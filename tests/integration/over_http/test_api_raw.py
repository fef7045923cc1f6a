"""Bodies that are inputs as they are, and outputs as they are, over HTTP."""

import io
from typing import Any

import httpx
import numpy as np
import pytest

from headway import npy
from tests.integration.over_http.conftest import Stack

ECHO = "/v1/models/echo/predictions"
PAIR = "/v1/models/pair/predictions"
NPY = {"content-type": "application/x-npy"}


@pytest.fixture
def client(stack: Stack) -> httpx.Client:
    return stack.api.client


def problem(response: httpx.Response, status: int, code: str) -> Any:
    assert response.status_code == status, response.text
    assert response.json()["code"] == code
    return response.json()


@pytest.mark.parametrize("kind", ["image/jpeg", "IMAGE/png", "audio/wav; rate=16000", "application/octet-stream"])
def test_bytes_are_stored_as_they_came_and_are_not_shown_as_json(stack: Stack, kind: str) -> None:
    data = bytes(range(256))
    sent = stack.api.client.post(ECHO, content=data, headers={"content-type": kind})
    assert sent.status_code == 202
    row = stack.worker.predictions.read_input(sent.json()["id"], "default")
    assert row is not None
    assert row.body == data
    assert (row.content_type or "").lower() == kind.lower()
    shown = stack.api.client.get(f"{sent.headers['location']}?include=input").json()
    assert (shown["input"], shown["input_type"].lower()) == (None, kind.lower())


def test_the_other_fields_stand_in_the_query(client: httpx.Client) -> None:
    query = {
        "version": "1",
        "priority": "2",
        "max_attempts": "7",
        "queue_timeout_seconds": "60.5",
        "execution_timeout_seconds": "1",
        "metadata": '{"who": "me"}',
        "webhook": "http://127.0.0.1:9999/x",
        "webhook_events": "started,completed",
    }
    sent = client.post(ECHO, params=query, content=b"\0", headers={"content-type": "application/octet-stream"}).json()
    assert (sent["version"], sent["priority"], sent["max_attempts"]) == ("1", 2, 7)
    assert (sent["metadata"], sent["webhook_status"]) == ({"who": "me"}, "pending")
    assert sent["expires_at"] is not None


REFUSED = {
    "an unknown field": ({"imput": "1"}, "imput"),
    "a priority": ({"priority": "10"}, "priority"),
    "no number": ({"priority": "high"}, "priority"),
    "metadata": ({"metadata": "[1]"}, "metadata"),
    "broken metadata": ({"metadata": "{"}, "metadata"),
    "an event": ({"webhook": "https://example.com/", "webhook_events": "never"}, "webhook_events"),
    "events without a webhook": ({"webhook_events": "started"}, "webhook_events"),
    "a timeout": ({"queue_timeout_seconds": "-1"}, "queue_timeout_seconds"),
    "version and alias": ({"version": "1", "alias": "stable"}, "alias"),
    "the input": ({"input": "1"}, "input"),
}


@pytest.mark.parametrize(("query", "parameter"), REFUSED.values(), ids=REFUSED)
def test_a_field_that_is_wrong_is_422_and_says_which(
    client: httpx.Client, query: dict[str, str], parameter: str
) -> None:
    response = client.post(ECHO, params=query, content=b"x", headers={"content-type": "image/png"})
    assert problem(response, 422, "validation_failed")["errors"][0]["parameter"] == parameter


def test_a_webhook_in_the_query_is_judged_like_any_other(client: httpx.Client) -> None:
    query = {"webhook": "https://10.0.0.1/"}
    response = client.post(ECHO, params=query, content=b"x", headers={"content-type": "image/png"})
    assert problem(response, 422, "webhook_url_rejected")["errors"][0]["parameter"] == "webhook"


@pytest.mark.parametrize("kind", ["text/plain", "application/x-pickle", "video/mp4", "image/", "multipart/form-data"])
def test_other_types_are_415(client: httpx.Client, kind: str) -> None:
    problem(client.post(ECHO, content=b"x", headers={"content-type": kind}), 415, "unsupported_media_type")


def test_an_empty_body_and_one_that_is_too_large_are_refused(client: httpx.Client) -> None:
    kind = {"content-type": "application/octet-stream"}
    problem(client.post(ECHO, content=b"", headers=kind), 400, "malformed_request")
    problem(client.post(ECHO, content=b"x" * 100_001, headers=kind), 413, "payload_too_large")
    problem(
        client.post(ECHO, content=b"x", headers={**kind, "content-encoding": "gzip"}), 415, "unsupported_media_type"
    )


def test_an_array_must_be_what_the_model_declares(client: httpx.Client) -> None:
    fits = npy.dump(np.array([1, 2], np.float32))
    assert client.post(PAIR, content=fits, headers=NPY).status_code == 202
    for wrong in (np.array([1, 2, 3], np.float32), np.array([[1, 2]], np.float32), np.array([1, 2], np.complex64)):
        problem(client.post(PAIR, content=npy.dump(wrong), headers=NPY), 422, "validation_failed")
    problem(client.post(PAIR, content=b"\0\0", headers={"content-type": "image/png"}), 422, "validation_failed")
    pickled = io.BytesIO()
    np.save(pickled, np.array([{}], dtype=object), allow_pickle=True)
    refused = problem(client.post(PAIR, content=pickled.getvalue(), headers=NPY), 422, "validation_failed")
    assert "dtype" in refused["detail"]


def test_the_same_key_and_bytes_are_the_same_prediction_and_another_type_or_query_is_not(client: httpx.Client) -> None:
    def send(body: bytes = b"abc", kind: str = "image/png", query: str = "") -> httpx.Response:
        headers = {"content-type": kind, "idempotency-key": "raw"}
        return client.post(f"{ECHO}?priority=3{query}", content=body, headers=headers)

    first = send()
    assert first.status_code == 202
    assert (send().json()["id"], send().headers["idempotency-replayed"]) == (first.json()["id"], "true")
    for other in (send(b"abd"), send(kind="image/gif"), send(query="&max_attempts=1")):
        problem(other, 422, "idempotency_key_reused")


def test_an_output_is_given_as_it_is_or_as_what_it_can_be_turned_into(stack: Stack) -> None:
    client = stack.api.client

    def output_of(value: bytes, accept: str | None = None) -> httpx.Response:
        sent = client.post(ECHO, json={"input": 1}).json()
        stack.worker.run(sent["id"], answer=lambda _: value)
        return client.get(sent["urls"]["output"], headers={} if accept is None else {"accept": accept})

    plain = output_of(b"[[1, 2], [3, 4.5]]")
    assert (plain.headers["content-type"], plain.content) == ("application/json", b"[[1, 2], [3, 4.5]]")
    array = output_of(b"[[1, 2], [3, 4.5]]", "application/x-npy")
    assert npy.load(array.content).tolist() == [[1, 2], [3, 4.5]]
    assert output_of(b"[1]", "application/octet-stream, */*;q=0.1").content == b"[1]"
    assert output_of(b'{"a": 1}', "application/*").json() == {"a": 1}
    for value, accept in (
        (b'{"a": 1}', "application/x-npy"),
        (b"[[1], [2, 3]]", "application/x-npy"),
        (b"1", "image/png"),
    ):
        problem(output_of(value, accept), 406, "not_acceptable")


def test_what_has_no_output_says_why(stack: Stack) -> None:
    client = stack.api.client
    sent = client.post(ECHO, json={"input": 1}).json()
    problem(client.get(sent["urls"]["output"]), 409, "not_terminal")
    client.post(sent["urls"]["cancel"])
    assert problem(client.get(sent["urls"]["output"]), 409, "no_output")["status_of_prediction"] == "canceled"
    problem(client.get("/v1/predictions/00000000-0000-7000-8000-000000000000/output"), 404, "prediction_not_found")
