"""The places for calls at one device process: what it has, what it may have, and when it will be free.

At most two calls are in flight, so the device finds the next one waiting while the results of the last are written;
nothing else is taken out of the window early. Of items of batches, whose rows are claimed for several calls at once,
there are as many as the device answers in a moment.
"""

import math
import threading
import time
from collections import deque

from workers.call import Call
from workers.claims import Claims
from workers.executor import Executor
from workers.window import Window

_IN_FLIGHT = 2
#: Calls of batches' items: as many as the device takes so long for. Whoever comes then waits no longer.
_AHEAD_S = 0.008
_MOST_AHEAD = 8


class Slots:
    """Shared by the threads of one runner. All of it is changed under `changed`, and whoever changes it notifies."""

    def __init__(self, window: Window, claims: Claims) -> None:
        self._window = window
        self._claims = claims
        self.changed = threading.Condition()
        self.executor: Executor | None = None  # None while none is ready
        self.in_flight: deque[Call] = deque()  # the oldest is on the device
        self.again: Call | None = None  # to be run first on the next process
        self.recycling = False  # the process holds too much memory, and ends when it has answered
        self.loadable = True  # as far as is known
        self.stopping = False
        self.began = 0.0  # when the oldest call in flight could begin
        self.pace = math.nan  # seconds a call, moving average
        self._lead = 0.003  # seconds from a take to the call being in the pipe, moving average

    @property
    def leaving(self) -> bool:
        """Nothing more is to be begun."""
        return self.stopping or not self._window.open

    def has_room(self) -> bool:
        if self.executor is None or self.recycling:
            return False
        most = self.ahead if all(call.bulk for call in self.in_flight) else _IN_FLIGHT
        return len(self.in_flight) < most

    @property
    def ahead(self) -> int:
        """Calls of batches' items that may be in flight."""
        return _IN_FLIGHT if not self.pace > 0 else max(_IN_FLIGHT, min(_MOST_AHEAD, int(_AHEAD_S / self.pace)))

    def await_room(self) -> Executor | None:
        """Until a process is ready and has room; None at the end."""
        with self.changed:
            self.changed.wait_for(lambda: self.leaving or self.has_room())
            return None if self.leaving else self.executor

    def free_at(self) -> float:
        """When the device could begin another call, less the time it takes to bring it there."""
        if not self.in_flight:
            return 0.0
        return math.inf if math.isnan(self.pace) else self.began + len(self.in_flight) * self.pace - self._lead

    def running_s(self) -> float:
        """How long the device has been at the present call; 0 while there is none."""
        with self.changed:
            return time.monotonic() - self.began if self.in_flight else 0.0

    def brought(self, seconds: float) -> None:
        """What a take took to be in the pipe."""
        self._lead += 0.2 * (seconds - self._lead)

    def answered(self, call_id: int) -> tuple[Call, float] | None:
        """The call that the device has just answered, and the seconds it took; None for one that was handed back while
        the answer was on its way: the fence would turn it away anyhow. Under the lock."""
        if not self.in_flight or self.in_flight[0].id != call_id:
            return None
        now = time.monotonic()
        took, self.began = now - self.began, now
        self.pace = took if math.isnan(self.pace) else self.pace + 0.2 * (took - self.pace)
        return self.in_flight.popleft(), took

    def place(self, call: Call) -> Executor | None:
        """Waits for room and puts the call there; the process to send it to, or None where there will be none."""
        with self.changed:
            self.changed.wait_for(lambda: self.stopping or not self.loadable or self.has_room())
            if self.stopping or not self.has_room():
                return None
            if not self.in_flight:
                self.began = time.monotonic()
            self.in_flight.append(call)
            self.changed.notify_all()
            return self.executor

    def submit(self, call: Call, executor: Executor) -> None:
        """Raises DeviceLost."""
        executor.submit(call.id, call.submission(), call.types())
        with self.changed:
            call.sent = True
        self.pass_on_cancels(call, executor)  # those that came before it was sent
        if call.next_limit_s() is not None:
            executor.wake()

    def pass_on_cancels(self, call: Call, executor: Executor) -> None:
        """To the device process, which has the call."""
        with self.changed:
            canceled = self.canceled(call)
            if canceled and call.unwanted_since is None:
                call.unwanted_since = time.monotonic()
        if canceled:
            executor.cancel(call.id, sorted(canceled))
            executor.wake()

    def canceled(self, call: Call) -> set[str]:
        """The rows of it that nobody wants any more."""
        canceled = self._claims.canceled(call.claims)
        return canceled.intersection(row.id for row in call.rows) if canceled else canceled
