"""For tests of Headway and of what is built on it."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(predicate: Callable[[], T], timeout_s: float = 10.0, what: str = "the condition") -> T:
    """What the predicate answers as soon as that is true, asked every few milliseconds. Raises TimeoutError."""
    deadline = time.monotonic() + timeout_s
    while not (answer := predicate()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s} s for {what}; at last it was {answer!r}")
        time.sleep(0.005)
    return answer
