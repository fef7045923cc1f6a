"""What a verb asks of whoever does its I/O, and what it is told.

A verb (`verbs.py`) is a generator of steps and knows no socket; `blocking.py` and `awaiting.py` do the steps, each in a
dozen lines. So there is one logic of retries, waiting and streams, and two ways to run it.
"""

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Body(Protocol):
    """Of any size, and never in memory as a whole."""

    def blocks(self) -> Iterator[bytes]:
        """From its beginning, at each call."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """One exchange; what comes of it is an Answer or Lost. With `stream`, the answer's body is left to be Read."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Body | None = None
    silence_s: float = 20.0  # without a byte: lost
    left_s: float | None = None  # of the caller's time
    stream: bool = False


@dataclass(frozen=True, slots=True)
class Read:
    """The next bytes of the stream, as bytes, empty at its end; or Lost."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Nothing, for a while."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Give:
    """Something for the caller, who may take his time."""

    value: Any


@dataclass(frozen=True, slots=True)
class Answer:
    """Of a server, whatever it says."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes


@dataclass(frozen=True, slots=True)
class Lost:
    """No answer, or not all of it. Whether the request arrived is not known."""

    reason: str


Step = Send | Read | Pause | Give
#: After Send, Read and the others.
Came = Answer | Lost | bytes | None
#: A verb under way, which ends with a T.
Verb = Generator[Step, Came, T]
