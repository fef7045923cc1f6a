"""Server-sent events out of bytes, cut anywhere, as the HTML standard has them; lines end with LF or CRLF.

Its rule: an event exists once its empty line has arrived. What a cut connection leaves unfinished never was; the server
sends it again to who asks with the id of the last event that was whole.
"""

from typing import NamedTuple

_BOM = b"\xef\xbb\xbf"


class Message(NamedTuple):
    """One event, undecoded."""

    event: str
    data: str
    id: str  # the last that was sent, "" if none was


class Parser:
    """Takes the bytes of one connection."""

    def __init__(self) -> None:
        self._rest: list[bytes] = []  # of a line that has not ended; joined once, however long it grows
        self._begun = False
        self._event = ""
        self._data: list[str] = []
        self._id = ""

    def feed(self, chunk: bytes) -> list[Message]:
        """The events that are whole now."""
        self._rest.append(chunk)
        if b"\n" not in chunk:
            return []
        text = b"".join(self._rest)
        if not self._begun:
            self._begun = True
            text = text.removeprefix(_BOM)
        *lines, rest = text.split(b"\n")
        self._rest = [rest]
        messages = (self._line(line.removesuffix(b"\r")) for line in lines)
        return [message for message in messages if message is not None]

    def _line(self, line: bytes) -> Message | None:
        if not line:
            return self._dispatch()
        name, _, value = line.decode("utf-8", "replace").partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
        elif name == "id" and "\0" not in value:
            self._id = value
        return None

    def _dispatch(self) -> Message | None:
        event, data = self._event or "message", self._data
        self._event, self._data = "", []
        return Message(event, "\n".join(data), self._id) if data else None
