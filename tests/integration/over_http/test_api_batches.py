"""A file of predictions over HTTP: what comes in, what is said of what is wrong with it, how its results come out."""

import asyncio
import datetime
import gzip
import io
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow
import pyarrow.parquet
import pytest
import redis

import headway
from headway.errors import ItemCode, ItemError
from headway.testing import wait_until
from storage.batches import Batches
from tests.integration.over_http.conftest import Stack
from workers.batches import BatchKeeper
from workers.publisher import Publisher

NDJSON = {"content-type": "application/x-ndjson"}
PATH = "/v1/batches?model=echo"


class Keeping:
    """A keeper and a worker that answer batches when the test says so."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.batches = Batches(stack.database)
        self._redis = redis.Redis.from_url(stack.valkey.url)
        self._publisher = Publisher(stack.valkey.url)
        self._keeper = BatchKeeper(stack.database, self._redis, self._publisher)

    def run(
        self, id_: str, count: int = 1_000, answer: Callable[[bytes], bytes | ItemError] = lambda body: body
    ) -> None:
        """Answers so many of its items, the first ones that wait."""
        for start in range(0, count, 100):
            ids = [hint.id for _, _, hint in self.batches.hints(id_, 0, min(100, count - start))]
            if ids:
                self.stack.worker.run(*ids, answer=answer, notify=False)
        self.keep()

    def keep(self) -> None:
        for _ in range(3):
            self._keeper.step()

    def close(self) -> None:
        self._publisher.close()
        self._redis.close()


@pytest.fixture
def keeping(stack: Stack) -> Iterator[Keeping]:
    made = Keeping(stack)
    yield made
    made.close()


@pytest.fixture
def client(stack: Stack) -> httpx.Client:
    return stack.api.client


def lines(*inputs: Any) -> bytes:
    return b"".join(
        json.dumps({"custom_id": f"c{n}", "input": input_}).encode() + b"\n" for n, input_ in enumerate(inputs, 1)
    )


def submitted(client: httpx.Client, body: bytes | Iterator[bytes], path: str = PATH, **headers: str) -> Any:
    response = client.post(path, content=body, headers=NDJSON | headers)
    assert response.status_code == 202, response.text
    return response.json()


def results(client: httpx.Client, batch: Any, after: int | None = None) -> list[Any]:
    path = batch["urls"]["results"] + ("" if after is None else f"?after={after}")
    response = client.get(path)
    assert response.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.text.splitlines() if line]


def problem(response: httpx.Response, status: int, code: str) -> Any:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["code"] == code
    return body


def test_a_file_comes_in_runs_and_comes_out_in_its_order(client: httpx.Client, keeping: Keeping) -> None:
    response = client.post(PATH + "&priority=3&completion_window=2h", content=lines(1, "two", [3]), headers=NDJSON)
    assert response.status_code == 202
    batch = response.json()
    assert response.headers["location"] == batch["urls"]["get"] == f"/v1/batches/{batch['id']}"
    assert {key: batch[key] for key in ("object", "model", "version", "status", "priority", "error")} == {
        "object": "batch",
        "model": "echo",
        "version": "2",
        "status": "in_progress",
        "priority": 3,
        "error": None,
    }
    assert batch["request_counts"] == {"total": 3, "completed": 0, "failed": 0, "canceled": 0, "expired": 0}
    assert batch["expires_at"] is not None

    keeping.run(batch["id"])
    assert results(client, batch) == [
        {"line": 1, "custom_id": "c1", "output": 1},
        {"line": 2, "custom_id": "c2", "output": "two"},
        {"line": 3, "custom_id": "c3", "output": [3]},
    ]
    assert results(client, batch, after=2) == [{"line": 3, "custom_id": "c3", "output": [3]}]
    done = client.get(batch["urls"]["get"]).json()
    assert (done["status"], done["request_counts"]["completed"], done["progress"]["fraction"]) == ("completed", 3, 1.0)
    assert done["revision"] > batch["revision"]


def test_results_stream_while_the_batch_runs(client: httpx.Client, keeping: Keeping) -> None:
    batch = submitted(client, lines(*range(10)))
    seen: list[int] = []

    def follow() -> None:
        with client.stream("GET", batch["urls"]["results"]) as stream:
            for line in stream.iter_lines():
                seen.extend([json.loads(line)["line"]] if line else [])

    following = threading.Thread(target=follow)
    following.start()
    keeping.run(batch["id"], 4)
    wait_until(lambda: seen == [1, 2, 3, 4], 10, "the first four")
    keeping.run(batch["id"])
    following.join(10)
    assert not following.is_alive()
    assert seen == list(range(1, 11))


BAD_LINES: dict[str, tuple[bytes, str]] = {
    "malformed": (b'{"input": ', "truncated"),
    "not an object": (b"[1]", "Expected `object`"),
    "no JSON at all": (b"hello", "Invalid character"),
    "not UTF-8": (b'{"input": "\xff"}', "UTF-8"),
    "NaN": (b'{"input": NaN}', "Invalid character"),
    "an unknown field": (b'{"input": 1, "imput": 2}', "no field `imput`"),
    "no input": (b'{"custom_id": "x"}', "`input`"),
    "input and body": (b'{"input": 1, "method": "POST", "url": "/x", "body": 1}', "or else"),
    "a body without url": (b'{"body": 1}', "`method` and `url`"),
    "another model's url": (
        b'{"method":"POST","url":"/v1/models/pair/predictions","body":{"input":1}}',
        "is for 'echo'",
    ),
    "a get": (b'{"method":"GET","url":"/x","body":1}', "Invalid enum value"),
    "a custom_id that is a number": (b'{"custom_id": 7, "input": 1}', "Expected `str | null`"),
    "a custom_id with NUL": (b'{"custom_id": "\\u0000", "input": 1}', "NUL"),
    "too deep": (b'{"input": ' + b"[" * 100 + b"]" * 100 + b"}", "deeper"),
    "too long": (b'{"input": "' + b"x" * 100_000 + b'"}', "longer than 100000 bytes"),
}


def test_a_line_that_is_wrong_fails_alone_with_its_number_and_its_reason(
    client: httpx.Client, keeping: Keeping
) -> None:
    body = b"".join(line + b"\n" + lines("good") for line, _ in BAD_LINES.values())
    batch = submitted(client, body)
    assert batch["request_counts"]["total"] == 2 * len(BAD_LINES)
    keeping.run(batch["id"])
    found = results(client, batch)
    assert [one["line"] for one in found] == list(range(1, 2 * len(BAD_LINES) + 1))
    for bad, good, (name, (_, words)) in zip(found[::2], found[1::2], BAD_LINES.items(), strict=True):
        assert good["output"] == "good"
        assert bad["error"]["code"] == "invalid_input", name
        assert words in bad["error"]["message"], name
    counts = client.get(batch["urls"]["get"]).json()["request_counts"]
    assert (counts["completed"], counts["failed"]) == (len(BAD_LINES), len(BAD_LINES))


def test_a_line_must_fit_the_models_inputs(client: httpx.Client) -> None:
    batch = submitted(client, b'{"input": {"x": [1, 2]}}\n{"input": {"x": [1, 2, 3]}}\n', "/v1/batches?model=pair")
    listed = client.get(f"/v1/predictions?batch_id={batch['id']}").json()["data"]
    assert [one["status"] for one in listed] == ["failed", "queued"]
    assert "/input/x" in listed[0]["error"]["message"]


def test_empty_lines_are_no_items_and_keep_their_numbers(client: httpx.Client, keeping: Keeping) -> None:
    batch = submitted(client, b'\n{"input": 1}\r\n\r\n  \n{"input": 2}')
    assert batch["request_counts"]["total"] == 2
    keeping.run(batch["id"])
    assert [(one["line"], one["output"]) for one in results(client, batch)] == [(2, 1), (5, 2)]


def test_openais_lines_are_taken(client: httpx.Client, keeping: Keeping) -> None:
    body = (
        b'{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"messages":[1]}}\n'
        b'{"custom_id":"b","method":"POST","url":"/v1/models/echo/predictions","body":{"input":[2]}}\n'
    )
    batch = submitted(client, body)
    keeping.run(batch["id"])
    assert [(one["custom_id"], one["output"]) for one in results(client, batch)] == [
        ("a", {"messages": [1]}),
        ("b", [2]),
    ]


@pytest.mark.parametrize("body", [b"", b"\n\n \n"], ids=["nothing", "only empty lines"])
def test_a_file_without_lines_is_refused(client: httpx.Client, body: bytes, keeping: Keeping) -> None:
    assert "no lines" in problem(client.post(PATH, content=body, headers=NDJSON), 422, "validation_failed")["detail"]


def test_a_file_of_something_else_is_refused_at_its_beginning(client: httpx.Client) -> None:
    csv = b"x,y\n" + b"1,2\n" * 5_000
    refused = problem(client.post(PATH, content=csv, headers=NDJSON), 422, "validation_failed")
    assert "Line 1:" in refused["detail"]
    assert [one["line"] for one in refused["errors"]] == [str(line) for line in range(1, 11)]


def test_a_file_may_be_packed_in_any_number_of_members(client: httpx.Client, keeping: Keeping) -> None:
    inputs = list(range(3_000))
    packed = gzip.compress(lines(*inputs[:1_000])) + gzip.compress(lines(*inputs[1_000:]))
    batch = submitted(client, packed, **{"content-encoding": "gzip"})
    keeping.run(batch["id"], 3_000)
    assert [one["output"] for one in results(client, batch)] == inputs


def gzip_of(size: int) -> Iterator[bytes]:
    """So many zeros, packed a thousand times smaller."""
    import zlib

    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    for _ in range(size >> 20):
        yield packer.compress(b'{"input": 0}   \n' * (1 << 16))
    yield packer.flush()


REFUSED: dict[str, tuple[Callable[[], Any], dict[str, str], int, str]] = {
    "cut off gzip": (
        lambda: gzip.compress(lines(*range(2_000)))[:-20],
        {"content-encoding": "gzip"},
        400,
        "malformed_request",
    ),
    "no gzip": (lambda: lines(1), {"content-encoding": "gzip"}, 400, "malformed_request"),
    "a bomb": (lambda: gzip_of(1 << 27), {"content-encoding": "gzip"}, 413, "payload_too_large"),
    "brotli": (lambda: lines(1), {"content-encoding": "br"}, 415, "unsupported_media_type"),
    "json": (lambda: lines(1), {"content-type": "application/json"}, 415, "unsupported_media_type"),
    "a bad key": (lambda: lines(1), {"idempotency-key": ""}, 422, "validation_failed"),
}


@pytest.mark.parametrize(("body", "headers", "status", "code"), REFUSED.values(), ids=REFUSED)
def test_a_file_that_is_refused_has_a_clear_answer_and_leaves_nothing_that_runs(
    stack: Stack, keeping: Keeping, body: Callable[[], Any], headers: dict[str, str], status: int, code: str
) -> None:
    client = stack.api.client
    before = {one["id"] for one in client.get("/v1/batches?limit=100").json()["data"]}
    problem(client.post(PATH, content=body(), headers=NDJSON | headers), status, code)

    def over() -> bool:
        keeping.keep()
        new = [one for one in client.get("/v1/batches?limit=100").json()["data"] if one["id"] not in before]
        return all(one["status"] == "failed" for one in new)

    wait_until(over, 20, "what it has left to fail")  # who refused it may be late to say so in SQL


QUERIES = {
    "no model": ("/v1/batches", 422, "validation_failed"),
    "unknown model": ("/v1/batches?model=nope", 404, "model_not_found"),
    "unknown version": ("/v1/batches?model=echo&version=9", 404, "version_not_found"),
    "unknown alias": ("/v1/batches?model=echo&alias=nope", 404, "alias_not_found"),
    "version and alias": ("/v1/batches?model=echo&version=1&alias=stable", 422, "validation_failed"),
    "a priority": (PATH + "&priority=10", 422, "validation_failed"),
    "a window": (PATH + "&completion_window=soon", 422, "validation_failed"),
    "no time": (PATH + "&completion_window=0", 422, "validation_failed"),
    "a webhook": (PATH + "&webhook=http://example.com:22/", 422, "webhook_url_rejected"),
    "an unknown parameter": (PATH + "&imput=1", 422, "validation_failed"),
    "a failed model": ("/v1/batches?model=broken", 503, "unavailable"),
}


@pytest.mark.parametrize(("path", "status", "code"), QUERIES.values(), ids=QUERIES)
def test_what_is_asked_for_a_file_is_checked_before_it_is_read(
    client: httpx.Client, path: str, status: int, code: str
) -> None:
    problem(client.post(path, content=lines(1), headers=NDJSON), status, code)


def test_the_same_key_and_file_are_the_same_batch_and_another_file_is_refused(
    client: httpx.Client, keeping: Keeping
) -> None:
    body = lines(*range(1_200))
    first = submitted(client, body, **{"idempotency-key": "again"})
    again = client.post(PATH, content=body, headers=NDJSON | {"idempotency-key": "again"})
    assert (again.status_code, again.json()["id"]) == (202, first["id"])
    assert again.headers["idempotency-replayed"] == "true"
    for other in (body + lines("more"), body[: len(body) // 2], lines(*range(1, 1_201)), lines(1)):
        problem(
            client.post(PATH, content=other, headers=NDJSON | {"idempotency-key": "again"}),
            422,
            "idempotency_key_reused",
        )
    problem(
        client.post(PATH + "&priority=1", content=body, headers=NDJSON | {"idempotency-key": "again"}),
        422,
        "idempotency_key_reused",
    )
    keeping.run(first["id"], 1_200)
    after = client.post(
        PATH, content=gzip.compress(body), headers=NDJSON | {"idempotency-key": "again", "content-encoding": "gzip"}
    )
    assert (after.status_code, after.json()["status"]) == (200, "completed")
    assert len(results(client, first)) == 1_200


def broken_off(stack: Stack, body: bytes, **headers: str) -> None:
    """Sends a part of a file, until all of it that makes whole blocks is stored, and hangs up."""
    stored = stack.api.metric("headway_api_batch_lines_total")
    head = "".join(f"{name}: {value}\r\n" for name, value in (NDJSON | headers).items())
    with socket.create_connection(("127.0.0.1", stack.api.port), timeout=10) as connection:
        start = f"POST {PATH} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999\r\n{head}\r\n"
        connection.sendall(start.encode() + body)
        whole = len(body.splitlines()) // 500 * 500
        wait_until(
            lambda: stack.api.metric("headway_api_batch_lines_total") >= stored + whole, 10, "blocks to be stored"
        )


def test_an_upload_that_broke_off_goes_on_when_the_file_is_sent_again_with_its_key(
    stack: Stack, client: httpx.Client, keeping: Keeping
) -> None:
    body = lines(*range(3_000))
    broken_off(stack, body[: len(body) // 2], **{"idempotency-key": "broken"})
    stored = stack.api.metric("headway_api_batch_lines_total")
    batch = submitted(client, body, **{"idempotency-key": "broken"})
    assert stack.api.metric("headway_api_batch_lines_total") < stored + 2_000
    assert batch["request_counts"]["total"] == 3_000
    keeping.run(batch["id"], 3_000)
    assert [one["output"] for one in results(client, batch)] == list(range(3_000))


def test_a_file_that_changed_since_it_broke_off_is_refused(stack: Stack, client: httpx.Client) -> None:
    body = lines(*range(3_000))
    broken_off(stack, body[: len(body) // 2], **{"idempotency-key": "changed"})
    other = lines("other", *range(1, 3_000))
    problem(
        client.post(PATH, content=other, headers=NDJSON | {"idempotency-key": "changed"}), 422, "idempotency_key_reused"
    )
    assert submitted(client, body, **{"idempotency-key": "changed"})["request_counts"]["total"] == 3_000


def test_an_upload_that_broke_off_without_a_key_fails_its_batch(
    stack: Stack, client: httpx.Client, keeping: Keeping
) -> None:
    broken_off(stack, lines(*range(1_100)))

    def failed() -> Any:
        keeping.keep()
        newest = client.get("/v1/batches?limit=1").json()["data"][0]
        return newest if newest["status"] == "failed" else None

    batch = wait_until(failed, 10, "the batch to fail")
    assert batch["error"] == {"code": "upload_incomplete", "message": "The upload broke off."}
    assert batch["request_counts"]["canceled"] == 1_000
    assert {one["error"]["code"] for one in results(client, batch)} == {"canceled"}


def test_many_at_once_with_one_key_make_one_batch(client: httpx.Client, keeping: Keeping) -> None:
    body = lines(*range(2_000))
    answers: list[httpx.Response] = []

    def send() -> None:
        answers.append(client.post(PATH, content=body, headers=NDJSON | {"idempotency-key": "many"}))

    threads = [threading.Thread(target=send) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    keeping.run(answers[0].json()["id"], 2_000)
    assert [one["output"] for one in results(client, answers[0].json())] == list(range(2_000))


def test_a_cancel_ends_the_batch(client: httpx.Client, keeping: Keeping) -> None:
    batch = submitted(client, lines(*range(5)))
    keeping.run(batch["id"], 2)
    canceling = client.post(batch["urls"]["cancel"])
    assert (canceling.status_code, canceling.json()["status"]) == (202, "canceling")
    keeping.keep()
    canceled = client.post(batch["urls"]["cancel"])
    assert (canceled.status_code, canceled.json()["status"]) == (200, "canceled")
    assert [("output" in one, one.get("error", {}).get("code")) for one in results(client, batch)] == [
        *[(True, None)] * 2,
        *[(False, "canceled")] * 3,
    ]
    other = submitted(client, lines(1))
    keeping.run(other["id"])
    problem(client.post(other["urls"]["cancel"]), 409, "already_terminal")


def test_items_are_predictions_that_are_found_by_their_batch(client: httpx.Client, keeping: Keeping) -> None:
    batch = submitted(client, lines(*range(5)))
    page = client.get(f"/v1/predictions?batch_id={batch['id']}&limit=3").json()
    assert [one["custom_id"] for one in page["data"]] == ["c5", "c4", "c3"]
    more = client.get(f"/v1/predictions?batch_id={batch['id']}&limit=3&after={page['last_id']}").json()
    assert ([one["custom_id"] for one in more["data"]], more["has_more"]) == (["c2", "c1"], False)
    one = client.get(more["data"][0]["urls"]["get"]).json()
    assert (one["batch_id"], one["custom_id"], one["priority"]) == (batch["id"], "c2", 5)
    assert one["queue"] == {"position": None, "eta_seconds": None}

    keeping.run(batch["id"], answer=lambda body: ItemError(ItemCode.MODEL_ERROR, "no"))
    failed = client.get(f"/v1/predictions?batch_id={batch['id']}&status=failed").json()["data"]
    assert len(failed) == 5
    assert "batch" in problem(client.post(failed[0]["urls"]["get"] + "/retry"), 409, "not_retryable")["detail"]
    assert client.delete(failed[0]["urls"]["get"]).status_code == 204
    assert results(client, batch)[4]["error"]["code"] == "prediction_purged"


def test_batches_are_listed_newest_first(client: httpx.Client) -> None:
    made = [submitted(client, lines(1))["id"] for _ in range(3)]
    page = client.get("/v1/batches?limit=2")
    assert [one["id"] for one in page.json()["data"]] == [made[2], made[1]]
    assert page.json()["has_more"]
    assert f"after={made[1]}" in page.headers["link"]
    assert client.get(f"/v1/batches?limit=1&after={made[1]}").json()["data"][0]["id"] == made[0]
    problem(client.get("/v1/batches?after=x"), 400, "invalid_cursor")
    problem(client.get("/v1/batches?status=new"), 422, "validation_failed")


@pytest.mark.parametrize("id_", ["x", "00000000-0000-7000-8000-000000000000", "%00"])
def test_any_other_id_is_404(client: httpx.Client, id_: str) -> None:
    for method, end in (("GET", ""), ("GET", "/results"), ("POST", "/cancel")):
        problem(client.request(method, f"/v1/batches/{id_}{end}"), 404, "batch_not_found")


@pytest.mark.parametrize("after", ["-1", "x", "1.5", "1" * 20])
def test_results_begin_after_a_line(client: httpx.Client, after: str) -> None:
    batch = submitted(client, lines(1))
    problem(client.get(f"{batch['urls']['results']}?after={after}"), 422, "validation_failed")


def test_the_python_clients_send_files_and_inputs_and_read_their_results(
    stack: Stack, keeping: Keeping, tmp_path: Path
) -> None:
    packed = tmp_path / "in.ndjson.gz"
    packed.write_bytes(gzip.compress(lines(*range(700))))
    with headway.Client(stack.api.url) as client:
        job = client.batch(packed, model="echo", priority=2, completion_window="1h")
        assert (job.status, job.counts.total, job.batch.priority) == ("in_progress", 700, 2)
        keeping.run(job.id, 700)
        assert [(one.line, one.custom_id, one.output) for one in job.results(after=698)] == [
            (699, "c699", 698),
            (700, "c700", 699),
        ]
        assert job.wait(timeout=10).status == "completed"
        named = client.batch((headway.Line([n], custom_id=f"n{n}") for n in range(3)), model="echo")
        assert client.get_batch(named.id).cancel().status == "canceling"
        keeping.keep()
        assert [(one.custom_id, one.error.code) for one in named.results() if one.error] == [
            (f"n{n}", "canceled") for n in range(3)
        ]
        assert next(iter(client.batches(limit=1))).id == named.id
        with pytest.raises(headway.ApiError, match="no lines"):
            client.batch([], model="echo")


def test_the_awaiting_client_does_the_same(stack: Stack, keeping: Keeping) -> None:
    async def score() -> list[Any]:
        async with headway.AsyncClient(stack.api.url) as client:
            job = await client.batch([1, "two"], model="echo")
            await asyncio.to_thread(keeping.run, job.id)
            return [one.output async for one in job.results()]

    assert asyncio.run(score()) == [1, "two"]


def parquet_of(columns: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), file, row_group_size=300)
    return file.getvalue()


PARQUET = {"content-type": "application/vnd.apache.parquet"}


def test_rows_of_a_parquet_file_are_inputs(client: httpx.Client, keeping: Keeping) -> None:
    numbers = list(range(1_000))
    body = parquet_of({"input": [[n, n / 2] for n in numbers], "custom_id": [f"r{n}" for n in numbers]})
    batch = client.post(PATH, content=body, headers=PARQUET | {"idempotency-key": "parquet"}).json()
    assert batch["request_counts"]["total"] == 1_000
    keeping.run(batch["id"])
    assert [(one["custom_id"], one["output"]) for one in results(client, batch)] == [
        (f"r{n}", [n, n / 2]) for n in numbers
    ]
    again = client.post(PATH, content=body, headers=PARQUET | {"idempotency-key": "parquet"})
    assert (again.status_code, again.json()["id"]) == (200, batch["id"])


def test_without_a_column_of_inputs_a_row_is_one_by_the_names_of_its_columns(
    client: httpx.Client, keeping: Keeping
) -> None:
    moment = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    body = parquet_of({"a": [1.5, float("nan")], "b": ["x", None], "at": [moment, moment]})
    batch = client.post(PATH, content=body, headers=PARQUET).json()
    keeping.run(batch["id"])
    good, bad = results(client, batch)
    assert good["output"] == {"a": 1.5, "b": "x", "at": "2026-01-02T03:04:05+00:00"}
    assert bad["error"]["code"] == "invalid_input"


def test_what_is_no_parquet_file_is_refused(client: httpx.Client) -> None:
    whole = parquet_of({"input": list(range(1_000))})
    for body in (b"PAR1", whole[:-10], whole[len(whole) // 2 :], lines(1), whole[:100] + whole[200:]):
        problem(client.post(PATH, content=body, headers=PARQUET), 400, "malformed_request")
    assert (
        "no lines"
        in problem(client.post(PATH, content=parquet_of({"input": []}), headers=PARQUET), 422, "validation_failed")[
            "detail"
        ]
    )
