"""Several responses to one request, of a model that answers as often as it likes (Triton's decoupled models).

While the model runs, each response goes out as reports, in pieces; in the end all of them are the one output of the
prediction, `MEDIA_TYPE`: msgpack, a list of `Response`. The rule: what was reported only hastens what the output has.
"""

from collections.abc import Iterator, Sequence

import msgspec

from headway import tensors

MEDIA_TYPE = "application/vnd.headway.responses"

#: Bytes of a response that one report carries.
_MOST_PIECE = 128 * 1024


class Response(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """One of them. Without outputs and an error it is the word that nothing more comes, for itself."""

    tensors: bytes | None = None  # `headway.tensors`; of a response without outputs, of none
    final: bool = False
    code: str = ""  # an `ItemCode`, where it is an error
    message: str = ""

    @property
    def alone(self) -> bool:
        """Whether nothing is to be shown of it but that it is the last."""
        return self.tensors is None and not self.code


class Piece(msgspec.Struct, frozen=True, array_like=True):
    """A part of a response, in a report of the kind "response"."""

    number: int  # of the response: 0, 1, … of a request
    at: int  # 0, 1, … of the response's pieces
    last: bool
    data: bytes  # of the encoded response


_encoder = msgspec.msgpack.Encoder()
encode = _encoder.encode
#: These raise `msgspec.DecodeError`.
decode = msgspec.msgpack.Decoder(Response).decode
piece_of = msgspec.msgpack.Decoder(Piece).decode
load = msgspec.msgpack.Decoder(list[Response]).decode


def pieces(number: int, response: bytes) -> Iterator[bytes]:
    """The reports of an encoded response."""
    starts = range(0, len(response), _MOST_PIECE)
    for at, start in enumerate(starts):
        part = response[start : start + _MOST_PIECE]
        yield _encoder.encode(Piece(number, at, at == len(starts) - 1, part))


def dump(encoded: Sequence[bytes]) -> bytes:
    """The output of responses that are encoded already."""
    return _encoder.encode([msgspec.Raw(one) for one in encoded])


def json_of(data: bytes) -> bytes:
    """A list of their outputs, each as `tensors.json_of` has it. Raises ValueError where that cannot be."""
    shown = [tensors.json_of(one.tensors) for one in load(data) if one.tensors is not None]
    return b"[" + b",".join(shown) + b"]"
