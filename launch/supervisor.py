"""Keeps the parts of one machine's Headway alive, and takes them down in order.

Its rules: a part that dies, or has no pulse any more (`headway.pulse`), is started again, for ever; a part is gone only
when its whole process group is; nothing outlives the supervisor (`launch.tether`). It knows nothing of what the parts
are.

One thread, asyncio. Each part has one task that starts its process, waits for its end and starts it again.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from headway.pulse import VARIABLE

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0
#: A part that lived this long was healthy: its next death is a new story and the pause starts small again.
HEALTHY_S = 30.0
PROBE_EVERY_S = 0.05
#: A part without a pulse for so long is killed; before its first beat it has more time. One that ends by itself has no
#: pulse any more either, and takes ten seconds at most.
SILENT_S = 20.0
STARTING_S = 120.0
_FEEL_EVERY_S = 1.0

_TETHER = str(Path(__file__).with_name("tether.py"))


@dataclass(frozen=True, kw_only=True)
class Part:
    """One process to keep alive."""

    name: str
    argv: Sequence[str]  # no secrets: everyone on the machine can read it
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    #: More environment, made anew for every start: an id that no two lives share.
    fresh: Callable[[], dict[str, str]] = dict
    pass_fds: Sequence[int] = ()
    #: Whether it has a pulse, and how long that may be missed.
    pulse: bool = False
    silent_s: float = SILENT_S
    #: Whether it does its work now; may block for a second. The parts of the next group start when it has said yes.
    ready: Callable[[], bool] = lambda: True
    #: Told of each death, with what `fresh` gave that life. May raise: that is logged, and the part restarted anyway.
    died: Callable[[Mapping[str, str]], None] = lambda fresh: None


class Supervisor:
    """Starts groups of parts one after the other and drains them in the opposite order."""

    def __init__(
        self,
        groups: Sequence[Sequence[Part]],
        *,
        drain_s: float = 15.0,
        before_drain: Callable[[], None] = lambda: None,
    ) -> None:
        self._groups = [[_Keeper(part) for part in group] for group in groups]
        self._drain_s = drain_s
        self._before_drain = before_drain
        self._signals = 0
        self._signaled = asyncio.Event()

    async def run(self, then: Callable[[], Awaitable[None]]) -> int:
        """Brings everything up, awaits `then()`, and goes on until SIGINT or SIGTERM.

        Returns the exit code: 0 after a clean drain, 1 where anything had to be killed. What `then` raises is raised
        again after the drain.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal, number)
        up = asyncio.create_task(self._bring_up(then))
        signaled = asyncio.create_task(self._signaled.wait())
        try:
            await asyncio.wait({up, signaled}, return_when=asyncio.FIRST_COMPLETED)
            if up.done() and up.exception() is None:
                await signaled
        finally:
            signaled.cancel()
            up.cancel()
            clean = await self._drain()
        if up.done() and not up.cancelled():
            up.result()
        return 0 if clean and self._signals < 2 else 1

    def kill(self) -> None:
        """At once, everything."""
        for keeper in self._keepers():
            keeper.kill()

    async def _bring_up(self, then: Callable[[], Awaitable[None]]) -> None:
        for group in self._groups:
            for keeper in group:
                keeper.start()
            for keeper in group:
                await keeper.ready.wait()
        await then()

    async def _drain(self) -> bool:
        """All groups share the time; each that follows is left a tenth of it, for it only has to say goodbye."""
        log.info("draining", extra={"action": "drain"})
        began = time.monotonic()
        self._before_drain()
        clean = True
        for index, group in reversed(list(enumerate(self._groups))):
            deadline = began + self._drain_s * (0.95 - 0.1 * index)
            clean &= all(await asyncio.gather(*(keeper.stop(deadline) for keeper in group)))
        log.info("drained", extra={"action": "drained", "seconds": round(time.monotonic() - began, 2)})
        return clean

    def _on_signal(self, number: int) -> None:
        self._signals += 1
        self._signaled.set()
        if self._signals > 1:
            log.warning("second %s: killing everything", signal.Signals(number).name)
            self.kill()

    def _keepers(self) -> "list[_Keeper]":
        return [keeper for group in self._groups for keeper in group]


class _Keeper:
    """One part, and the process that it is at the moment."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.ready = asyncio.Event()
        self._stopping = asyncio.Event()
        self._deadline = 0.0
        self._clean = True
        self._process: Process | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._keep())

    async def stop(self, deadline: float) -> bool:
        """SIGTERM, and SIGKILL at `deadline` (monotonic seconds). True where no SIGKILL was needed."""
        self._deadline = deadline
        self._stopping.set()
        if self._task is not None:
            await self._task
        return self._clean

    def kill(self) -> None:
        self._deadline = 0.0
        self._stopping.set()
        if self._process is not None and self._process.returncode is None:
            _kill_group(self._process.pid)

    async def _keep(self) -> None:
        pause = FIRST_PAUSE_S
        while not self._stopping.is_set():
            fresh = self.part.fresh()
            began = time.monotonic()
            pulse = _Pulse(self.part.silent_s) if self.part.pulse else None
            try:
                self._process = await self._spawn(fresh, pulse)
            except OSError as error:  # no such program, no more processes
                reason = str(error)
            else:
                reason = await self._live(self._process, pulse)
                await self._report_death(fresh)
            finally:
                if pulse is not None:
                    pulse.close()
            if self._stopping.is_set():
                return
            if time.monotonic() - began >= HEALTHY_S:
                pause = FIRST_PAUSE_S
            log.warning(
                "%s %s; starting it again in %.1f s",
                self.part.name,
                reason,
                pause,
                extra={"action": "restart", "part": self.part.name, "reason": reason},
            )
            await _wait_at_most(self._stopping, pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    async def _spawn(self, fresh: Mapping[str, str], pulse: "_Pulse | None") -> Process:
        felt = {} if pulse is None else {VARIABLE: pulse.writing}
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", _TETHER, str(os.getpid()), *self.part.argv),
            env={**self.part.environ, **fresh, **{name: str(fd) for name, fd in felt.items()}},
            stdin=DEVNULL,
            stdout=sys.stderr,  # stdout is the supervisor's own: one line
            pass_fds=[*self.part.pass_fds, *felt.values()],
            start_new_session=True,  # a group of its own, and no Ctrl-C from the terminal past the supervisor
        )

    async def _live(self, process: Process, pulse: "_Pulse | None") -> str:
        """Until nothing of the process group is left, by itself or because we stop it. Returns how it ended."""
        ended = asyncio.create_task(process.wait())
        stopping = asyncio.create_task(self._stopping.wait())
        probing = asyncio.create_task(self._probe())
        silent = asyncio.create_task(asyncio.Event().wait() if pulse is None else pulse.missed())
        try:
            await asyncio.wait({ended, stopping, silent}, return_when=asyncio.FIRST_COMPLETED)
            if silent.done() and not ended.done() and not stopping.done():
                return f"had no pulse for {self.part.silent_s:g} s and was killed"
            if not ended.done():
                process.terminate()
                await asyncio.wait({ended}, timeout=max(0.0, self._deadline - time.monotonic()))
                if not ended.done():
                    self._clean = False
                    log.warning("%s did not stop in time and is killed", self.part.name)
        finally:
            _kill_group(process.pid)  # it, or the children it left behind
            for task in (stopping, probing, silent):
                task.cancel()
            await ended
        return _how_it_ended(await ended)

    async def _probe(self) -> None:
        while not self.ready.is_set():
            if await asyncio.to_thread(self.part.ready):
                self.ready.set()
            else:
                await asyncio.sleep(PROBE_EVERY_S)

    async def _report_death(self, fresh: Mapping[str, str]) -> None:
        try:
            await asyncio.to_thread(self.part.died, fresh)
        except Exception as error:  # whatever it was, the part must live again
            log.warning("the end of %s could not be recorded: %s", self.part.name, error)


class _Pulse:
    """What is heard of one life of a part."""

    def __init__(self, silent_s: float) -> None:
        self._silent_s = silent_s
        self._reading, self.writing = os.pipe()
        os.set_blocking(self._reading, False)

    async def missed(self) -> bool:
        """Returns once it has been missed for too long. A pause of ours starts the count again."""
        heard_at = looked_at = time.monotonic()
        most = max(STARTING_S, self._silent_s)
        while time.monotonic() - heard_at < most:
            await asyncio.sleep(_FEEL_EVERY_S)
            now = time.monotonic()
            if self._felt():
                heard_at, most = now, self._silent_s
            elif now - looked_at > 5 * _FEEL_EVERY_S:
                heard_at = now
            looked_at = now
        return True

    def _felt(self) -> bool:
        with contextlib.suppress(BlockingIOError):
            return bool(os.read(self._reading, 65_536))
        return False

    def close(self) -> None:
        os.close(self._reading)
        os.close(self.writing)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # nobody left; EPERM on macOS where only zombies are
        os.killpg(pid, signal.SIGKILL)


def _how_it_ended(code: int) -> str:
    if code < 0:
        return f"was ended by signal {-code} ({signal.strsignal(-code)})"
    return f"exited with code {code}"


async def _wait_at_most(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
