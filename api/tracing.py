"""The caller's trace (`traceparent`, W3C Trace Context): into our log, and with the row on to its webhooks.

The log has one line for a request, and only for one whose trace says that it is sampled. Nobody else pays for it, and
how many there are is the caller's sampling to decide.
"""

import logging
import re
from collections.abc import Sequence

from api.exchange import Call

log = logging.getLogger(__name__)

#: A version after 00 may say more than this one knows; what is passed on is the part that is known.
_TRACE = re.compile(rb"((?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2})(-.*)?")


def traceparent(call: Call) -> str | None:
    """The caller's, where it is well formed."""
    sent = call.headers.get(b"traceparent")
    if sent is None or (match := _TRACE.fullmatch(sent)) is None:
        return None
    return match[1].decode()


def accepted(call: Call, ids: Sequence[str]) -> None:
    """These are committed."""
    sent = traceparent(call)
    if sent is None or not int(sent[-2:], 16) & 1:
        return
    trace = {"traceparent": sent, "request_id": call.request_id}
    for id_ in ids:
        log.info("accepted %s", id_, extra={"prediction_id": id_, **trace})
