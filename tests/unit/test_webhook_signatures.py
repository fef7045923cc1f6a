"""What Headway signs is what the official library of Standard Webhooks signs and verifies."""

import base64
import datetime
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from headway.errors import SettingsError
from headway.webhooks import check_secret, new_secret, signatures, verify


def of_bytes(key: bytes) -> str:
    return "whsec_" + base64.b64encode(key).decode()


@given(key=st.binary(min_size=24, max_size=64), id_=st.text(st.characters(codec="ascii"), min_size=1), body=st.text())
def test_a_signature_is_byte_for_byte_the_official_librarys(key: bytes, id_: str, body: str) -> None:
    at = 1_700_000_000
    moment = datetime.datetime.fromtimestamp(at, datetime.UTC)
    for secret in (of_bytes(key), of_bytes(key).rstrip("=")):
        assert signatures([secret], id_, at, body.encode()) == Webhook(secret).sign(id_, moment, body)


def test_each_of_two_secrets_verifies_while_a_rotation_lasts() -> None:
    old, new, at = new_secret(), new_secret(), int(time.time())
    body = b'{"a": "\xc3\xbc"}'
    headers = {
        "webhook-id": "1",
        "webhook-timestamp": str(at),
        "webhook-signature": signatures([new, old], "1", at, body),
    }
    for secret in (old, new):
        assert Webhook(secret).verify(body, headers) == verify(secret, body, headers) == {"a": "ü"}


def test_a_secret_of_headways_own_can_be_given_to_it() -> None:
    assert all(check_secret(secret) == secret for secret in (new_secret() for _ in range(10)))


@pytest.mark.parametrize("size", [24, 25, 26, 32, 64])
def test_a_secret_may_have_its_padding_or_not(size: int) -> None:
    for secret in (of_bytes(b"k" * size), of_bytes(b"k" * size).rstrip("=")):
        assert check_secret(secret) == secret


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_!", of_bytes(b"k" * 23), of_bytes(b"k" * 65), "whsec_ü" * 9])
def test_a_secret_that_is_none_is_refused(secret: str) -> None:
    with pytest.raises(SettingsError, match="HEADWAY_WEBHOOK_SECRET"):
        check_secret(secret)
