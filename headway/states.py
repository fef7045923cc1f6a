"""The life of a prediction, as a table.

Two rules: every status and every allowed move is in this file, and this file knows nothing of SQL or HTTP.
A terminal status changes only by an explicit retry.
"""

import enum
import json
from typing import NamedTuple


class Status(enum.IntEnum):
    """The numbers are what SQL stores; never renumber them."""

    QUEUED = 0
    IN_PROGRESS = 1
    CANCELING = 2  # a cancel was asked for and the device is not free yet
    SUCCEEDED = 3
    FAILED = 4
    CANCELED = 5
    EXPIRED = 6  # its queue timeout passed before a device was spent on it

    @property
    def label(self) -> str:
        """The word clients see."""
        return self.name.lower()

    @property
    def terminal(self) -> bool:
        return self >= Status.SUCCEEDED


#: (from, to) → what causes it.
TRANSITIONS: dict[tuple[Status, Status], str] = {
    (Status.QUEUED, Status.IN_PROGRESS): "claimed by a worker",
    (Status.QUEUED, Status.CANCELED): "canceled before any device was spent on it",
    (Status.QUEUED, Status.EXPIRED): "its queue timeout passed",
    (Status.IN_PROGRESS, Status.SUCCEEDED): "the model answered",
    (Status.IN_PROGRESS, Status.FAILED): "the model refused it, or its attempts are used up",
    (Status.IN_PROGRESS, Status.QUEUED): "the attempt was lost; the next attempt will come",
    (Status.IN_PROGRESS, Status.CANCELING): "a cancel was asked for while it ran",
    (Status.CANCELING, Status.CANCELED): "the device let go of it",
    (Status.CANCELING, Status.SUCCEEDED): "it was done before the cancel reached the device",
    (Status.CANCELING, Status.FAILED): "it failed before the cancel reached the device",
    (Status.FAILED, Status.QUEUED): "explicit retry",
    (Status.EXPIRED, Status.QUEUED): "explicit retry",
    (Status.CANCELED, Status.QUEUED): "explicit retry",
}


class Transition(NamedTuple):
    """One step of a prediction's life."""

    status: Status
    at: int  # microseconds since 1970
    attempt: int  # claims until then, this one included


def history(
    status: Status, *, created_at: int, started_at: int | None, completed_at: int | None, log: str | None
) -> list[Transition]:
    """Every transition of a row, oldest first; what the row's own times do not tell is in its `log`.

    The list only ever grows, so a place in it names a transition for ever.
    """
    steps = [(Status.QUEUED, created_at), *((Status(code), at) for code, at in json.loads(f"[{log or ''}]"))]
    if steps[-1][0] is Status.QUEUED and started_at is not None:
        steps.append((Status.IN_PROGRESS, started_at))
    if completed_at is not None:
        steps.append((status, completed_at))
    transitions, attempt = [], 0
    for step, at in steps:
        attempt += step is Status.IN_PROGRESS
        transitions.append(Transition(step, at, attempt))
    return transitions
