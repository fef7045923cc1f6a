"""The life of a prediction, as a table.

Two rules: every status and every allowed move is in this file, and this file knows nothing of SQL or HTTP.
A terminal status changes only by an explicit retry.
"""

import enum


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
