"""Whole lines out of bytes that are cut anywhere.

Its rule: a line exists once its newline has arrived. What a cut connection leaves unfinished never was.
"""


class WholeLines:
    """Takes the bytes of one connection."""

    def __init__(self) -> None:
        self._rest: list[bytes] = []  # of a line that has not ended; joined once, however long it grows

    def feed(self, chunk: bytes) -> bytes:
        """The lines that are whole now, each with its newline, and none of the empty ones, which only say: wait."""
        head, newline, rest = chunk.rpartition(b"\n")
        if not newline:
            self._rest.append(chunk)
            return b""
        whole = b"".join((*self._rest, head, newline))
        self._rest = [rest]
        if b"\n\n" in whole or whole.startswith(b"\n"):
            whole = b"".join(line + b"\n" for line in whole.split(b"\n") if line)
        return whole


def last_line(block: bytes) -> bytes:
    """Of whole lines, without its newline."""
    return block[:-1].rpartition(b"\n")[2]
