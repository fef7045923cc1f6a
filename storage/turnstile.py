"""Turns at writing to one SQLite file, fair between threads and processes.

SQLite's own busy handler polls: whoever commits most often wins, and the others starve. Two `flock`s make a queue of
it: take *next*, take *main*, free *next*. Whoever has just freed *main* finds *next* held by the one that waited
longest, so nobody passes twice in a row. The kernel frees both when their holder is killed. A holder that is stopped
(SIGSTOP) keeps the others waiting, as it would with SQLite's own write lock.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator


class Turnstile:
    """One for a database file and process. Not to be carried across a fork, and neither are SQLite's connections."""

    def __init__(self, database: str) -> None:
        self._names = (f"{database}-next", f"{database}-main")
        # A flock belongs to the open file description: every holder needs descriptors of its own.
        self._idle: list[tuple[int, int]] = []

    @contextlib.contextmanager
    def passed(self) -> Iterator[None]:
        """Waits for the turn; it lasts as long as the block."""
        try:
            descriptors = self._idle.pop()
        except IndexError:
            descriptors = self._open()
        next_, main = descriptors
        try:
            fcntl.flock(next_, fcntl.LOCK_EX)
            fcntl.flock(main, fcntl.LOCK_EX)
            fcntl.flock(next_, fcntl.LOCK_UN)
            yield
            fcntl.flock(main, fcntl.LOCK_UN)
        except BaseException:
            _close(descriptors)  # frees whichever of the two is held
            raise
        self._idle.append(descriptors)

    def close(self) -> None:
        while self._idle:
            _close(self._idle.pop())

    def _open(self) -> tuple[int, int]:
        next_, main = (os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600) for name in self._names)
        return next_, main


def _close(descriptors: tuple[int, int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
