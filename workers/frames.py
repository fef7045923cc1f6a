"""What a worker and its device process say to each other: msgpack over a socket pair, one message a frame.

    worker → device    Load, then Call …, and Cancel at any time
    device → worker    Loaded or NotLoaded, then Said … and Reply, for each Call

The rule: nothing that arrives here can run code (no pickle).
"""

from typing import Any, Literal

import msgspec

from headway.manifest import Manifest, Tensor
from headway.types import Outcome


class Load(msgspec.Struct, frozen=True, array_like=True):
    """What to load, and where."""

    path: str  # the version folder
    device: str  # as the process sees it: cuda:0, cpu, mps
    manifest: Manifest
    sha256: str | None = None  # what the folder's digest has to be; None: it is not looked at
    threads_free: bool = False  # nobody has said with how many threads a CPU computes


class Call(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """One micro-batch."""

    call_id: int
    items: list[tuple[str, bytes]]  # (prediction id, input)
    types: dict[str, str] = {}  # prediction id → media type, of inputs that are no JSON


class Cancel(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Nobody wants these items of a call any more. Of a call that has ended it means nothing."""

    call_id: int
    ids: list[str]


class Loaded(msgspec.Struct, frozen=True, tag=True):
    """The model is in memory and warmed up."""

    framework: str
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    memory_bytes: int | None  # on the device; on cpu what the process holds
    seconds: float  # to import, load and warm up
    said: dict[str, Any] = {}  # for `manifest.config`


class NotLoaded(msgspec.Struct, frozen=True, tag=True):
    """The model cannot be served; the process ends."""

    reason: str


#: A progress, a partial output (both JSON), a part of a reply as it goes onto the wire (`headway.envelopes.RESPONSE`),
#: a piece of one of several responses (`headway.responses`), or that the model was told of an item's cancel (nothing).
Saying = Literal["progress", "output", "message", "response", "canceled"]


class Said(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """What the model has said of items since the last frame, in order."""

    call_id: int
    sayings: list[tuple[str, Saying, bytes]]  # (prediction id, what, that)


class Reply(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A micro-batch is done: one outcome an item, in the order of the call."""

    call_id: int
    outcomes: list[Outcome]
    too_many: int | None = None  # the smallest part of it, of two or more, that did not fit into the device's memory


encode = msgspec.msgpack.Encoder().encode
decode_load = msgspec.msgpack.Decoder(Load).decode
decode_order = msgspec.msgpack.Decoder(Call | Cancel).decode
decode_loaded = msgspec.msgpack.Decoder(Loaded | NotLoaded).decode
decode_answer = msgspec.msgpack.Decoder(Reply | Said).decode
