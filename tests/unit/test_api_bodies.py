"""What is read out of requests, without a server: every bad body has its status, code and pointer."""

import asyncio
import json
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope

from api.exchange import Call, Disconnected, etag_matches, preferred_wait, query_parameters, request_id, single_headers
from api.problems import TABLE, Problem
from api.requests import CreateBody, read_create, read_predict

LIMIT = 1024 * 1024
JSON = (b"content-type", b"application/json")


def call(body: bytes, *headers: tuple[bytes, bytes], pieces: int = 1) -> Call:
    size = -(-len(body) // pieces) or 1
    parts = [body[start : start + size] for start in range(0, len(body), size)] or [b""]
    messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    messages[-1]["more_body"] = False

    async def receive() -> Message:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    scope = {"headers": list(headers) or [JSON], "path": "/", "query_string": b""}
    return made(scope, receive)


def made(scope: Scope, receive: Receive) -> Call:
    return Call(scope, receive, {}, "r", headers=single_headers(scope["headers"]), tenant="default")


def created(body: bytes, *headers: tuple[bytes, bytes], pieces: int = 1) -> Any:
    return asyncio.run(read_create(call(body, *headers, pieces=pieces), LIMIT))[0]


def refusal(body: bytes, *headers: tuple[bytes, bytes], limit: int = LIMIT) -> tuple[int, str, str | None]:
    """(status, code, pointer)"""
    with pytest.raises(Problem) as caught:
        asyncio.run(read_create(call(body, *headers), limit))
    problem = caught.value
    pointer = problem.errors[0].get("pointer") if problem.errors else None
    return TABLE[problem.code][0], problem.code, pointer


MALFORMED = {
    "nothing": b"",
    "spaces": b"   ",
    "cut off": b'{"input": [1,',
    "not JSON": b"input=1",
    "a comma too many": b'{"input": [1,]}',
    "something behind": b'{"input": 1} x',
    "NaN": b'{"input": NaN}',
    "Infinity": b'{"input": [-Infinity]}',
    "1e400": b'{"input": [1e400]}',
    "an integer of 5,000 digits": b'{"input": ' + b"9" * 5000 + b"}",
    "invalid UTF-8": b'{"input": "\xff"}',
    "a lone surrogate": b'{"input": "\\ud800"}',
    "a lone surrogate in metadata": b'{"input": 1, "metadata": {"k": "\\udc00"}}',
    "a raw control character": b'{"input": "a\nb"}',
    "a byte order mark": b'\xef\xbb\xbf{"input": 1}',
    "UTF-16": '{"input": 1}'.encode("utf-16"),
    "broken behind an unknown field": b'{"x": 1, "input": NaN}',
    "depth 65": b'{"input": ' + b"[" * 64 + b"]" * 64 + b"}",
    "depth 500": b'{"input": ' + b"[" * 499 + b"]" * 499 + b"}",
    "depth 100,000 of arrays": b'{"input": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "depth 100,000 of objects": b'{"input": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
    "depth 100,000, never closed": b'{"input": ' + b"[" * 100_000,
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_what_cannot_be_read_is_400(body: bytes) -> None:
    assert refusal(body) == (400, "malformed_request", None)


MISFITS = {
    "an array": (b"[]", ""),
    "null": (b"null", ""),
    "a string": (b'"input"', ""),
    "no input": (b"{}", "/input"),
    "an unknown field": (b'{"input": 1, "tenant_id": "x"}', "/tenant_id"),
    "events without a webhook": (b'{"input": 1, "webhook_events": ["started"]}', "/webhook_events"),
    "an unknown field with a slash": (b'{"input": 1, "a/b~": 1}', "/a~1b~0"),
    "priority true": (b'{"input": 1, "priority": true}', "/priority"),
    "priority as a string": (b'{"input": 1, "priority": "5"}', "/priority"),
    "priority 1e0": (b'{"input": 1, "priority": 1e0}', "/priority"),
    "priority 10": (b'{"input": 1, "priority": 10}', "/priority"),
    "priority -1": (b'{"input": 1, "priority": -1}', "/priority"),
    "priority 10^30": (b'{"input": 1, "priority": 1' + b"0" * 30 + b"}", "/priority"),
    "no attempts": (b'{"input": 1, "max_attempts": 0}', "/max_attempts"),
    "101 attempts": (b'{"input": 1, "max_attempts": 101}', "/max_attempts"),
    "queue timeout 0": (b'{"input": 1, "queue_timeout_seconds": 0}', "/queue_timeout_seconds"),
    "queue timeout 1e9": (b'{"input": 1, "queue_timeout_seconds": 1e9}', "/queue_timeout_seconds"),
    "queue timeout as a string": (b'{"input": 1, "queue_timeout_seconds": "nan"}', "/queue_timeout_seconds"),
    "version true": (b'{"input": 1, "version": true}', "/version"),
    "version and alias": (b'{"input": 1, "version": 1, "alias": "stable"}', "/alias"),
    "metadata of numbers": (b'{"input": 1, "metadata": {"k": 1}}', "/metadata"),
    "a long key": (b'{"input": 1, "metadata": {"%b": ""}}' % (b"k" * 65), "/metadata"),
    "a long value": (b'{"input": 1, "metadata": {"k": "%b"}}' % (b"v" * 513), "/metadata"),
    "17 keys": (json.dumps({"input": 1, "metadata": {str(n): "" for n in range(17)}}).encode(), "/metadata"),
    "NUL in a key": (b'{"input": 1, "metadata": {"\\u0000": "v"}}', "/metadata"),
    "NUL in a value": (b'{"input": 1, "metadata": {"k": "a\\u0000"}}', "/metadata"),
}


@pytest.mark.parametrize(("body", "pointer"), MISFITS.values(), ids=MISFITS)
def test_what_does_not_fit_is_422_and_says_where(body: bytes, pointer: str) -> None:
    assert refusal(body) == (422, "validation_failed", pointer)


#: Of every field, values of another type and out of its range.
WRONG: dict[str, list[Any]] = {
    "version": [True, 1.5, [], {}],
    "alias": [True, 1, [], {}],
    "priority": [None, True, 1.5, "5", [], {}, -1, 10, 1 << 70],
    "max_attempts": [True, 1.5, "3", [], {}, 0, -1, 101, 1 << 70],
    "metadata": [None, True, 1, "k", [], {"k": None}, {"k": 1}, {"k": ["v"]}, {"k": {}}],
    "queue_timeout_seconds": [True, "1", [], {}, 0, -0.5, 1e10],
    "execution_timeout_seconds": [True, "1", [], {}, 0, -0.5, 86_401, 1e10],
    "webhook": [True, 1, [], {}, "x" * 3000],
    "webhook_events": [True, 1, "completed", {}, [], ["ended"], [1], [None], ["started", "completed", "started"]],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in WRONG.items() for value in values])
def test_every_field_of_another_type_or_out_of_range_is_422_and_named(field: str, value: Any) -> None:
    status, code, pointer = refusal(json.dumps({"input": 1, field: value}).encode())
    assert (status, code) == (422, "validation_failed")
    assert pointer is not None
    assert pointer.split("/")[1] == field


def test_no_field_is_left_out_of_these() -> None:
    assert {"input", *WRONG} == set(CreateBody.__struct_fields__)


@pytest.mark.parametrize(
    "headers",
    [
        [(b"host", b"x")],
        [(b"content-type", b"text/plain")],
        [(b"content-type", b"multipart/form-data; boundary=x")],
        [(b"content-type", b"application/json; charset=utf-16")],
        [(b"content-type", b"application/json"), (b"content-type", b"application/json")],
        [JSON, (b"content-encoding", b"gzip")],
        [JSON, (b"content-encoding", b"identity, br")],
    ],
)
def test_anything_but_plain_json_is_415(headers: list[tuple[bytes, bytes]]) -> None:
    assert refusal(b'{"input": 1}', *headers) == (415, "unsupported_media_type", None)


@pytest.mark.parametrize(
    "content_type", [b"application/json", b"Application/JSON", b"application/json; charset=UTF-8", b"application/json;"]
)
def test_json_may_say_that_it_is_utf_8(content_type: bytes) -> None:
    assert bytes(created(b'{"input": 1}', (b"content-type", content_type)).input) == b"1"


def test_a_body_over_the_limit_is_413_before_it_is_read_and_while_it_is_read() -> None:
    body = b'{"input": "%b"}' % (b"x" * 100)
    assert refusal(b"", JSON, (b"content-length", b"99999999999999999999999"), limit=64)[0] == 413
    assert refusal(body, limit=64)[0] == 413
    assert refusal(body, limit=len(body) - 1)[0] == 413
    assert bytes(created(body, pieces=7).input) == body[10:-1]


def test_a_client_that_leaves_before_its_body_is_complete_is_not_answered() -> None:
    async def receive() -> Message:
        return {"type": "http.disconnect"}

    gone = made({"headers": [JSON], "path": "/", "query_string": b""}, receive)
    with pytest.raises(Disconnected):
        asyncio.run(read_create(gone, LIMIT))


def test_the_bytes_of_an_input_are_kept_as_they_came() -> None:
    body = created('{"input":  {"π": [1.10, 2E2, 123456789012345678901], "π": "é\\u00e9"} , "version": 2}'.encode())
    assert bytes(body.input) == '{"π": [1.10, 2E2, 123456789012345678901], "π": "é\\u00e9"}'.encode()
    assert body.version == 2


@pytest.mark.parametrize(
    "input_",
    [
        b"[" * 63 + b"]" * 63,
        b"[%b]" % b",".join([b"[1]"] * 1000),
        rb'["' + b"[{" * 200 + rb'"]',
        rb'["\\", "\"[[[\\\"' + b"[{" * 200 + rb'"]',
        b"null",
    ],
)
def test_what_is_broad_or_only_quotes_brackets_is_not_deep(input_: bytes) -> None:
    assert bytes(created(b'{"input": %b}' % input_).input) == input_


def test_depth_is_still_seen_behind_tricky_strings() -> None:
    tricky = rb'["\\", "\"", "\\\"]]]", %b]' % (b"[" * 63 + b"]" * 63)
    assert refusal(b'{"input": %b}' % tricky)[0] == 400


@pytest.mark.parametrize(
    ("body", "code", "pointer"),
    [
        (b"[1]", "validation_failed", ""),
        (b"{}", "validation_failed", "/instances"),
        (b'{"instances": []}', "validation_failed", "/instances"),
        (b'{"instances": {}}', "validation_failed", "/instances"),
        (b'{"instances": [1], "input": 2}', "validation_failed", "/input"),
        (b'{"instances": [%b]}' % b",".join([b"1"] * 1001), "validation_failed", "/instances"),
        (b'{"instances": [1, NaN]}', "malformed_request", None),
        (b'{"instances": [1, 1e999]}', "malformed_request", None),
    ],
)
def test_instances_are_read_as_strictly(body: bytes, code: str, pointer: str | None) -> None:
    with pytest.raises(Problem) as caught:
        asyncio.run(read_predict(call(body), LIMIT))
    errors = caught.value.errors
    assert (caught.value.code, errors[0].get("pointer") if errors else None) == (code, pointer)


@pytest.mark.parametrize(
    ("prefer", "wait"),
    [
        (b"", None),
        (b"wait=5", 5),
        (b'wait="5"', 5),
        (b"Wait = 5; x=1", 5),
        (b"respond-async, wait=7", 7),
        (b"wait=3, wait=9", 3),
        (b"wait=0", 0),
        (b"wait=61", 60),
        (b"wait=" + b"9" * 5000, 60),
        (b"wait", None),
        (b"wait=-1", None),
        (b"wait=1.5", None),
        (b"wait=nan", None),
        ("wait=١٢".encode(), None),
        (b"waiting=5", None),
    ],
)
def test_prefer_wait_is_taken_where_it_is_well_formed(prefer: bytes, wait: int | None) -> None:
    assert preferred_wait(prefer) == wait


def test_etags_are_compared_weakly() -> None:
    assert etag_matches(b'W/"3-x"', b"3-x")
    assert etag_matches(b'"1", "3-x"', b"3-x")
    assert etag_matches(b"*", b"3-x")
    assert not etag_matches(b'W/"3-y"', b"3-x")
    assert not etag_matches(b"3-x", b"3-x")


def test_a_request_id_is_echoed_only_where_it_is_harmless() -> None:
    assert request_id([(b"x-request-id", b"a-1._Z")]) == "a-1._Z"
    for bad in (b"", b"a b", b"a\x1b[31m", b"x" * 65, "ä".encode()):
        assert len(request_id([(b"x-request-id", bad)])) == 36


def test_repeated_headers_are_joined() -> None:
    assert single_headers([(b"prefer", b"a"), (b"host", b"h"), (b"prefer", b"b")]) == {
        b"prefer": b"a, b",
        b"host": b"h",
    }


@pytest.mark.parametrize("query", [b"wait=5", b"include=input&include=input", b"include=output", b"include", b"%ff=1"])
def test_query_parameters_are_read_strictly(query: bytes) -> None:
    with pytest.raises(Problem) as caught:
        query_parameters(query, {"include": ("input",)})
    assert TABLE[caught.value.code][0] == 422
    assert "parameter" in caught.value.errors[0]
