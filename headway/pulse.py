"""A sign of life, every second or so, to whoever started this process and wants to hear it.

HEADWAY_PULSE_FD names the end of a pipe to write to. Without it this does nothing.
"""

import contextlib
import os

VARIABLE = "HEADWAY_PULSE_FD"


class Pulse:
    """One for a process. What it starts itself hears nothing of it."""

    def __init__(self) -> None:
        given = os.environ.pop(VARIABLE, "")
        self._fd = int(given) if given.isdecimal() else None
        if self._fd is not None:
            os.set_inheritable(self._fd, False)
            os.set_blocking(self._fd, False)

    def beat(self) -> None:
        if self._fd is not None:
            with contextlib.suppress(OSError):  # full, or closed: the reader's affair
                os.write(self._fd, b".")
