"""A line in the log for every change that an operator makes: who, and what."""

import logging
from typing import Any

from api.exchange import Call

log = logging.getLogger(__name__)


def changed(call: Call, what: str, **details: Any) -> None:
    """`what` in words. Of a caller without a key nothing is known but that it reached the port."""
    who = f"key {call.key}" if call.key is not None else "nobody with a key"
    log.info("%s: %s", who, what, extra={"tenant": call.tenant, "request_id": call.request_id, **details})
