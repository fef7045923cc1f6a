"""What a worker and its device process say to each other: msgpack over a socket pair, one message a frame.

    worker → device    Load, then Call …           device → worker    Loaded or NotLoaded, then Reply …

The rule: nothing that arrives here can run code (no pickle).
"""

import msgspec

from headway.manifest import Manifest, Tensor
from headway.types import Outcome


class Load(msgspec.Struct, frozen=True, array_like=True):
    """What to load, and where."""

    path: str  # the version folder
    device: str  # as the process sees it: cuda:0, cpu, mps
    manifest: Manifest


class Call(msgspec.Struct, frozen=True, array_like=True):
    """One micro-batch."""

    call_id: int
    items: list[tuple[str, bytes]]  # (prediction id, input JSON)


class Loaded(msgspec.Struct, frozen=True, tag=True):
    """The model is in memory and warmed up."""

    framework: str
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    memory_bytes: int | None  # on the device; on cpu what the process holds
    seconds: float  # to import, load and warm up


class NotLoaded(msgspec.Struct, frozen=True, tag=True):
    """The model cannot be served; the process ends."""

    reason: str


class Reply(msgspec.Struct, frozen=True, array_like=True):
    """A micro-batch is done: one outcome an item, in the order of the call."""

    call_id: int
    outcomes: list[Outcome]
    too_many: int | None = None  # the smallest part of it, of two or more, that did not fit into the device's memory


encode = msgspec.msgpack.Encoder().encode
decode_load = msgspec.msgpack.Decoder(Load).decode
decode_call = msgspec.msgpack.Decoder(Call).decode
decode_loaded = msgspec.msgpack.Decoder(Loaded | NotLoaded).decode
decode_reply = msgspec.msgpack.Decoder(Reply).decode
