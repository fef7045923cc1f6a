"""Webhooks as a receiver judges them."""

import datetime
import json

import pytest
from standardwebhooks import Webhook

from headway.webhooks import WebhookVerificationError, new_secret, verify

OLD, NEW = new_secret(), new_secret()
BODY = json.dumps({"type": "prediction.succeeded", "data": {"output": "é"}}).encode()


def signed(*secrets: str, ago_s: float = 0) -> dict[str, str]:
    at = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=ago_s)
    signatures = " ".join(Webhook(secret).sign("m1", at, BODY.decode()) for secret in secrets)
    return {"Webhook-Id": "m1", "Webhook-Timestamp": str(int(at.timestamp())), "Webhook-Signature": signatures}


@pytest.mark.parametrize("sent_with", [[OLD], [NEW, OLD], [NEW]])
def test_a_receiver_with_both_secrets_misses_nothing_while_they_change(sent_with: list[str]) -> None:
    assert verify([OLD, NEW], BODY, signed(*sent_with))["data"] == {"output": "é"}
    assert verify(sent_with[0], BODY, signed(*sent_with)) == json.loads(BODY)


def test_what_another_has_signed_or_changed_or_sent_long_ago_is_refused() -> None:
    for secret, body, headers in [
        (OLD, BODY, signed(NEW)),
        ([OLD, new_secret()], BODY, signed(NEW)),
        (OLD, BODY + b" ", signed(OLD)),
        (OLD, BODY, signed(OLD, ago_s=400)),
        (OLD, BODY, signed(OLD, ago_s=-400)),
        ([], BODY, signed(OLD)),
    ]:
        with pytest.raises(WebhookVerificationError):
            verify(secret, body, headers)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Webhook-Signature", "v1"),
        ("Webhook-Signature", "v1,é"),
        ("Webhook-Signature", "v1,a"),
        ("Webhook-Signature", "a,b,c"),
        ("Webhook-Signature", ""),
        ("Webhook-Timestamp", "1e300"),
        ("Webhook-Timestamp", "nan"),
        ("Webhook-Timestamp", "now"),
        ("Webhook-Id", ""),
    ],
)
def test_garbage_is_refused_like_any_other(name: str, value: str) -> None:
    with pytest.raises(WebhookVerificationError):
        verify([OLD, NEW], BODY, {**signed(OLD), name: value})
    with pytest.raises(WebhookVerificationError):
        verify(OLD, b"\xff\xfe", signed(OLD))
