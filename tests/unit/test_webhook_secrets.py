"""HEADWAY_WEBHOOK_SECRET: what may sign, and what is refused before anything is signed with it."""

import base64

import pytest

from headway.errors import SettingsError
from headway.settings import webhook_secret
from headway.webhooks import new_secret


@pytest.mark.parametrize("size", [24, 25, 26, 32, 64])
def test_a_secret_may_have_any_length_from_24_to_64_bytes_padded_or_not(size: int) -> None:
    secret = "whsec_" + base64.b64encode(bytes(size)).decode()
    for each in (secret, secret.rstrip("=")):
        assert webhook_secret({"HEADWAY_WEBHOOK_SECRET": each}) == each


def test_what_the_command_line_shows_may_be_set() -> None:
    secret = new_secret()
    assert webhook_secret({"HEADWAY_WEBHOOK_SECRET": secret}) == secret


@pytest.mark.parametrize(
    "secret",
    [
        "whsec_" + base64.b64encode(bytes(23)).decode(),
        "whsec_" + base64.b64encode(bytes(65)).decode(),
        "whsec_" + "a" * 33,  # no number of bytes has that many digits
        "whsec_" + "a" * 31 + "!",
        "whsec_" + "ä" * 32,
        "a password",
    ],
)
def test_what_cannot_sign_is_refused(secret: str) -> None:
    with pytest.raises(SettingsError, match="HEADWAY_WEBHOOK_SECRET"):
        webhook_secret({"HEADWAY_WEBHOOK_SECRET": secret})
