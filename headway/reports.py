"""What a running model reports of its items: progress, and partial outputs. They live in Redis for ten minutes.

| key                    | type | life                                                                           |
| ---------------------- | ---- | ------------------------------------------------------------------------------ |
| `headway:reports:{id}` | list | msgpack of a `Report` each, in order; RPUSH; expires KEPT_S after the last one   |
| `headway:reports`      | chan | msgpack, a list of ids that have new ones                                      |

Best effort: a report may be lost with Redis, a transition never. A report's place in the stream of a prediction's
events is (attempt, n), so that whoever reads again finds the same events under the same ids.
"""

from typing import Literal

import msgspec

CHANNEL = "headway:reports"
KEPT_S = 600
#: Reports of one attempt at most, and bytes of them; what a model says beyond is dropped.
MOST = 100_000
MOST_BYTES = 8 * 1024 * 1024
#: Of one partial output, as JSON.
MOST_PARTIAL_BYTES = 256 * 1024

Kind = Literal["progress", "output", "message", "response"]


class Report(msgspec.Struct, frozen=True, array_like=True):
    """One call of `Item.progress` or `Item.emit`, or a part of a reply or response that is no JSON."""

    attempt: int
    n: int  # 1, 2, … within the attempt
    kind: Kind
    at: int  # microseconds since 1970, the worker's clock
    #: JSON: {"fraction", "message"}, or the partial output; of a message `envelopes.RESPONSE`; `responses.Piece`.
    data: bytes


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Report)


def key(prediction_id: str) -> str:
    """The Redis list of a prediction's reports."""
    return f"headway:reports:{prediction_id}"


def encode(report: Report) -> bytes:
    return _encoder.encode(report)


def decode(payload: bytes) -> Report:
    """Raises `msgspec.DecodeError`."""
    return _decoder.decode(payload)
