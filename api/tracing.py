"""The caller's trace in our log: which predictions a request became.

Its rule: one line, and only for a request whose `traceparent` (W3C Trace Context) says that it is sampled. Nobody
else pays for it, and how many there are is the caller's sampling to decide.
"""

import logging
import re
from collections.abc import Sequence

from api.exchange import Call

log = logging.getLogger(__name__)

_SAMPLED = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f][13579bdf](-.*)?")


def accepted(call: Call, ids: Sequence[str]) -> None:
    """These are committed."""
    sent = call.headers.get(b"traceparent")
    if sent is None or not _SAMPLED.fullmatch(sent):
        return
    trace = {"traceparent": sent.decode("latin-1")[:200], "request_id": call.request_id}
    for id_ in ids:
        log.info("accepted %s", id_, extra={"prediction_id": id_, **trace})
