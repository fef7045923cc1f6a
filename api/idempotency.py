"""`Idempotency-Key`: a submission that is repeated is answered with what the first one made, and runs once.

A key belongs to its tenant for as long as the row lives. The unique index decides who was first, so that a hundred at
once make one; what makes two requests the same is their route and the bytes of their body.
"""

import hashlib
import re

from api.exchange import Call
from api.problems import Problem

_LONGEST = 255
#: Quoted, as a structured field's string (RFC 9651), or bare.
_KEY = re.compile(rb'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"|([\x21\x23-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?)')


def key_of(call: Call) -> str | None:
    """Raises Problem for one that is malformed."""
    sent = call.headers.get(b"idempotency-key")
    if sent is None:
        return None
    match = _KEY.fullmatch(sent.strip())
    key = (
        "" if match is None else re.sub(rb"\\(.)", rb"\1", match[1]).decode() if match[2] is None else match[2].decode()
    )
    if not 1 <= len(key) <= _LONGEST:
        raise Problem.invalid(
            f"The key should be 1 to {_LONGEST} printable ASCII characters.", header="Idempotency-Key"
        )
    return key


def digest(call: Call, *asked: bytes) -> str:
    """What was asked, in 32 hexadecimal characters."""
    return hashlib.blake2b(b"\0".join((call.path.encode(), *asked)), digest_size=16).hexdigest()


def reused() -> Problem:
    detail = "This key came with another request before."
    return Problem("idempotency_key_reused", detail, errors=[{"header": "Idempotency-Key", "detail": detail}])
