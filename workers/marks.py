"""Which queued rows have left Redis: a rule on times, without I/O.

A line is first in, first out. So a queued row that is older than what was the oldest hint of its line ten seconds ago
cannot be in Redis any more: it is with a worker that has not claimed it, or lost. A line's *mark* is the position of
its oldest hint, or a moment before now where the line is empty.
"""

from collections import deque

#: How long a row must have been out of Redis before its hint counts as lost, seconds.
PATIENCE_S = 10.0


class Marks:
    """The marks of every line over the last seconds."""

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._noted: dict[str, deque[tuple[float, int]]] = {}

    def note(self, line: str, now: float, mark: int) -> None:
        """`now` in seconds, monotonic; `mark` a position in µs."""
        self._noted.setdefault(line, deque()).append((now, mark))

    def due(self, line: str, now: float) -> int | None:
        """The mark as it was `patience_s` ago or longer: queued rows before it are lost. None: not watched so long."""
        noted = self._noted.get(line)
        if not noted or noted[0][0] > now - self._patience_s:
            return None
        while len(noted) > 1 and noted[1][0] <= now - self._patience_s:
            noted.popleft()  # the newest one that is old enough is all that will ever be asked for
        return noted[0][1]

    def forget(self, line: str) -> None:
        """After a recovery the line's past says nothing of what is in Redis now."""
        self._noted.pop(line, None)
