"""For tests of Headway and of what is built on it."""

import time
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from headway import broker
from headway.clock import new_id
from headway.types import NewPrediction

T = TypeVar("T")


def wait_until(predicate: Callable[[], T], timeout_s: float = 10.0, what: str = "the condition") -> T:
    """What the predicate answers as soon as that is true, asked every few milliseconds. Raises TimeoutError."""
    deadline = time.monotonic() + timeout_s
    while not (answer := predicate()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s} s for {what}; at last it was {answer!r}")
        time.sleep(0.005)
    return answer


def new_prediction(**fields: Any) -> NewPrediction:
    """A submission to `digits@1` with a fresh id; `fields` replace what it would have."""
    prediction = NewPrediction(
        id=new_id(),
        tenant_id="default",
        model="digits",
        version="1",
        alias=None,
        line=broker.line("digits", "1", 5),
        priority=5,
        size=9,
        shape=None,
        max_attempts=3,
        body=b'{"x": [1]}',
    )
    return msgspec.structs.replace(prediction, **fields)
