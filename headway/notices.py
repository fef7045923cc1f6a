"""What processes tell each other over Redis: that predictions ended, and that some are to be canceled.

API processes learn of ends by one notice a finish, on one channel that all of them read. A notice may be lost (Redis
away, a slow subscriber): whoever waits also reads SQL now and then. Nothing else may be built on notices.
"""

from collections.abc import Sequence

import msgspec

from headway.errors import ItemError
from headway.states import Status

#: Redis pub/sub channel. Payload: msgpack of a `Notice`. Nothing is kept.
CHANNEL = "headway:notices"

#: Redis pub/sub channel of predictions that are `canceling`: whichever worker runs one lets go of it. Payload: msgpack,
#: a list of ids. Lost ones are found by the worker's own look at its claims.
CANCELS = "headway:cancels"

#: Outputs above this ride in SQL only; the reader fetches them there.
INLINE_OUTPUT_BYTES = 16_384


class Ended(msgspec.Struct, frozen=True, array_like=True):
    """What changed in a row when it became terminal."""

    status: Status
    revision: int
    claim: str | None
    attempt: int
    started_at: int | None
    completed_at: int
    predict_us: int | None
    batch_size: int | None
    output: bytes | None
    output_omitted: bool  # too large for a notice: read SQL
    error: ItemError | None


class Notice(msgspec.Struct, frozen=True, array_like=True):
    """Ids first and each body raw, so that a process skips what nobody there waits for without decoding it."""

    ids: list[str]
    bodies: list[msgspec.Raw]


_encoder = msgspec.msgpack.Encoder()
_notice_decoder = msgspec.msgpack.Decoder(Notice)
_ended_decoder = msgspec.msgpack.Decoder(Ended)


def encode(ended: dict[str, Ended]) -> bytes:
    return _encoder.encode(Notice(list(ended), [msgspec.Raw(_encoder.encode(body)) for body in ended.values()]))


_ids_decoder = msgspec.msgpack.Decoder(list[str])


def encode_ids(ids: Sequence[str]) -> bytes:
    return _encoder.encode(ids)


def decode_ids(payload: bytes) -> list[str]:
    """Raises `msgspec.DecodeError`."""
    return _ids_decoder.decode(payload)


def decode(payload: bytes) -> Notice:
    """Raises `msgspec.DecodeError` for anything that is not a notice."""
    return _notice_decoder.decode(payload)


def decode_ended(raw: msgspec.Raw) -> Ended:
    return _ended_decoder.decode(raw)
