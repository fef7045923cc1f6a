"""Ends a process that is up and does not do its duty, so that whoever keeps it starts another.

Each duty shows signs of life; the last one's time is looked at. A duty is stuck that has shown none for `silent_s`
although every service it needs has answered all that time: while Redis or SQL is away, and after a pause of the whole
process, all counts begin again. A thread that ends by an exception ends its process, too: what it did, nobody would do.

The end is a drain like that after SIGTERM, but for the exit code: what can be handed back is, uncharged, and
`stopping.limit` sees to it that it ends. Whether the interpreter itself still runs is watched by a timer that needs
none (`stopping.goes_on`), and whether the process is stopped altogether by whoever feels its pulse (`headway.pulse`).
"""

import contextlib
import faulthandler
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from headway import stopping
from headway.pulse import Pulse

log = logging.getLogger(__name__)

#: How long a duty may be silent. With the drain and the start of another process somebody is at work within 45 s.
SILENT_S = 20.0
#: The exit code of a process that ended itself, EX_SOFTWARE.
FAILED = 70
#: How often everything is looked at; a look that comes later than this by so much follows a pause of the process.
_LOOK_S = 1.0
_GAP_S = 5.0
#: A process that has not looked for so long has an interpreter that is stuck.
_DEAF_S = 35.0
#: Parts of that time: how often a service is asked, and how old its last answer is when it counts as away.
_ASK = 0.1
_AWAY = 0.4


class Sign(NamedTuple):
    """Of one duty: since when nothing was seen of it (monotonic), or infinity where nothing is expected."""

    duty: str
    since: float
    more_s: float = 0.0  # that it may be silent beyond what all may


class Life:
    """The sign of a loop: it goes on, or it rests. Shown by one thread, read by another."""

    def __init__(self, duty: str) -> None:
        self._duty = duty
        self._since = time.monotonic()

    def goes_on(self) -> None:
        self._since = time.monotonic()

    def rests(self) -> None:
        self._since = math.inf

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """What is under way has an end, before and after it nothing is expected."""
        self.goes_on()
        try:
            yield
        finally:
            self.rests()

    def sign(self) -> list[Sign]:
        return [Sign(self._duty, self._since)]


class Service:
    """Asked again and again by a thread of its own, which may hang; nobody waits for it."""

    def __init__(
        self,
        name: str,
        ask: Callable[[], object],
        *,
        silent_s: float = SILENT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`ask` raises whatever it likes where the service does not answer."""
        self._ask = ask
        self._every_s, self._away_s = _ASK * silent_s, _AWAY * silent_s
        self._clock = clock
        self._answered_at = -math.inf
        self._since = math.inf  # when it began to answer, without a gap
        self._thread = threading.Thread(target=self._run, name=f"asks {name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def ask(self) -> None:
        try:
            self._ask()
        except Exception as error:  # away, whatever that looks like
            log.debug("%s: %s", self._thread.name, error)
            self._since = math.inf
            return
        now = self._clock()
        if self._since == math.inf or now - self._answered_at > self._away_s:
            self._since = now
        self._answered_at = now

    def since(self) -> float:
        """When it began to answer without a gap up to now; infinity while it does not."""
        return self._since if self._clock() - self._answered_at <= self._away_s else math.inf

    def _run(self) -> None:
        while True:
            self.ask()
            time.sleep(self._every_s)


class Watchdog:
    """One for a process."""

    def __init__(
        self,
        asked_to_stop: threading.Event,
        *,
        silent_s: float = SILENT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`asked_to_stop`: set, it makes the process drain and end."""
        self.failed: str | None = None  # why the process ends, once it does not end because it was asked to
        self._asked_to_stop = asked_to_stop
        self._silent_s = silent_s
        self._clock = clock
        self._duties: list[tuple[Callable[[], Iterable[Sign]], Sequence[Service]]] = []
        self._services: list[Service] = []
        self._looked_at = self._awake_since = clock()
        self._pulse = Pulse()

    def watch(self, signs: Callable[[], Iterable[Sign]], *needs: Service) -> None:
        """`needs`: what must have answered all the while."""
        self._duties.append((signs, needs))
        self._services += [service for service in needs if service not in self._services]

    def guard(self) -> None:
        """From now on a thread that ends by an exception ends the process."""
        threading.excepthook = self._on_exception

    def start(self) -> None:
        """From now on duties are looked at."""
        for service in self._services:
            service.start()
        threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    def stuck(self) -> Sign | None:
        """A duty that has been silent for too long, if there is one."""
        now = self._clock()
        if now - self._looked_at > _GAP_S:  # the process was stopped, and what it waits for went on
            self._awake_since = now
        self._looked_at = now
        for signs, needs in self._duties:
            answering = max([self._awake_since, *(service.since() for service in needs)])
            for sign in signs():
                if now - max(sign.since, answering) > self._silent_s + sign.more_s:
                    return sign
        return None

    def fail(self, reason: str) -> None:
        """Ends the process, at once as far as that goes and in any case soon. From any thread."""
        if self._asked_to_stop.is_set():
            return
        self.failed = reason
        log.critical("%s; this process ends, to be started anew", reason)
        stopping.limit()
        self._asked_to_stop.set()

    @property
    def exit_code(self) -> int:
        return 0 if self.failed is None else FAILED

    def _run(self) -> None:
        while not self._asked_to_stop.is_set():
            stopping.goes_on(_DEAF_S)
            if (sign := self.stuck()) is not None:
                faulthandler.dump_traceback()  # where it is stuck
                self.fail(f"{sign.duty} has shown no sign of life for {self._clock() - sign.since:.0f} s")
                return
            self._pulse.beat()
            self._asked_to_stop.wait(_LOOK_S)

    def _on_exception(self, args: threading.ExceptHookArgs) -> None:
        name = "a thread" if args.thread is None else f"the thread {args.thread.name!r}"
        value = args.exc_value
        info = None if value is None else (type(value), value, args.exc_traceback)
        log.critical("%s has ended by an exception", name, exc_info=info)
        self.fail(f"{name} has ended")
