"""How a request of TorchServe's clients is stored: as JSON, as bytes, or with its headers; never with a credential."""

import pytest

from api.dialects.torchserve.requests import stored
from api.exchange import Call
from headway import envelopes
from headway.tensors import MEDIA_TYPE


async def _receive() -> dict[str, object]:
    return {"type": "http.request", "body": b""}


def call(**headers: str) -> Call:
    scope = {"path": "/predictions/m", "query_string": b""}
    raw = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    return Call(scope, _receive, {}, "id", headers=raw, tenant="default")


@pytest.mark.parametrize(
    ("content_type", "body", "kept"),
    [
        ("application/json", b'{"a": 1}', None),
        ("application/json; charset=utf-8", b"[]", None),
        ("application/json", b"[NaN", "application/json"),
        ("text/plain", b"x", "text/plain"),
        ("multipart/form-data; boundary=b", b"x", "multipart/form-data; boundary=b"),
        ("", b"x", "application/octet-stream"),
        (MEDIA_TYPE, b"x", envelopes.REQUEST),
        ("message/http", b"x", envelopes.REQUEST),
    ],
)
def test_a_body_keeps_its_type(content_type: str, body: bytes, kept: str | None) -> None:
    headers = {"host": "h", "user_agent": "curl", "accept": "*/*", "sec_fetch_site": "same-origin"}
    request = stored(call(content_type=content_type, **headers), body, {})
    assert request.content_type == kept
    if kept != envelopes.REQUEST:
        assert request.body == body
    else:
        assert envelopes.unpack_request(request.body).body == body


def test_headers_of_the_clients_own_are_kept_and_credentials_are_not() -> None:
    secret = {"authorization": "Bearer hw_1", "cookie": "a=b", "x_api_key": "hw_2", "x_headway_webhook": "https://x"}
    request = stored(call(content_type="application/json", x_label="a", **secret), b"1", {"explain": "True"})
    assert request.content_type == envelopes.REQUEST
    told = envelopes.unpack_request(request.body)
    assert told.headers == {"x-label": "a", "explain": "True", "content-type": "application/json"}
    assert told.body == b"1"
    assert b"hw_" not in request.body
