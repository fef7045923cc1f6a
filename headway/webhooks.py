"""Webhooks as both ends know them: events, secrets and signatures after Standard Webhooks 1.0.0."""

import base64
import enum
import functools
import hmac
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from headway.errors import SettingsError

__all__ = ["Events", "WebhookStatus", "WebhookVerificationError", "check_secret", "new_secret", "signatures", "verify"]

#: Bytes of an output that ride in a body; larger ones are to be fetched.
MOST_OUTPUT = 65_536


class Events(enum.IntFlag):
    """What a prediction's receiver wants to hear of. The numbers are what SQL stores."""

    COMPLETED = 1
    STARTED = 2


class WebhookStatus(enum.IntEnum):
    """How a prediction stands with its receiver. The numbers are what SQL stores."""

    NONE = 0
    PENDING = 1
    SUCCEEDED = 2
    FAILED = 3

    @property
    def label(self) -> str:
        """The word clients see."""
        return self.name.lower()


def new_secret() -> str:
    """32 random bytes, as receivers are told them."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def check_secret(secret: str) -> str:
    """The secret itself. Raises SettingsError for one that cannot sign."""
    text = secret.removeprefix("whsec_").rstrip("=")
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        key = b""
    if not 24 <= len(key) <= 64:
        raise SettingsError("HEADWAY_WEBHOOK_SECRET should be whsec_ and 24 to 64 bytes in base64")
    return secret


def signatures(keys: Sequence[str], id_: str, at: int, body: bytes) -> str:
    """The `webhook-signature` header: one signature for each secret that is valid now. `at`: seconds since 1970."""
    signed = b"%s.%d.%s" % (id_.encode(), at, body)
    digests = (hmac.digest(_bytes_of(key), signed, "sha256") for key in keys)
    return " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests)


@functools.lru_cache(maxsize=1024)
def _bytes_of(secret: str) -> bytes:
    # As the official library decodes it: padding beyond the needed one is skipped.
    return base64.b64decode(secret.removeprefix("whsec_") + "==")


def verify(secret: str | Sequence[str], body: bytes, headers: Mapping[str, str]) -> Any:
    """For receivers: the event, once its signature and its timestamp (five minutes) are right.

    Of several secrets any will do: a receiver that is given the new one beside the old one misses nothing, whenever the
    sender changes. Raises WebhookVerificationError, for what is no webhook at all too.
    """
    refusal = WebhookVerificationError("There is no secret to verify with")
    for webhook in map(Webhook, [secret] if isinstance(secret, str) else secret):
        try:
            return webhook.verify(body, dict(headers))
        except WebhookVerificationError as error:
            refusal = error
        except (ValueError, OverflowError) as error:  # anybody may send anything
            refusal = WebhookVerificationError(f"This is no webhook: {error}")
    raise refusal
