"""One device process: it is loaded, heard, and when it dies its work goes back and another is started.

The thread here owns the process; `workers.feed` has another that brings it work, and `workers.slots` is what the two
share. Results go to `workers.settling`.

What nobody wants any more is told to the device process. One that does not let go of it soon is ended, where that costs
less than to wait; the mates are handed back, and run again.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from batching.ceiling import Ceiling
from batching.reloads import Reloads
from headway.errors import ItemCode
from headway.manifest import Fetch, Limits
from headway.notices import Ended
from headway.registry import State
from headway.types import Claimed, Outcome
from storage.predictions import Predictions
from workers import memory, metrics
from workers.call import Call
from workers.claiming import Claiming
from workers.claims import Claims
from workers.executor import (
    AcceleratorLost,
    DeviceHung,
    DeviceLost,
    DiedLoading,
    Executor,
    Loaded,
    LoadFailed,
    Reply,
    Said,
)
from workers.feed import Feed
from workers.finisher import Finisher
from workers.materials import Materials
from workers.outputs import Outputs
from workers.progress import Progress
from workers.publisher import Publisher
from workers.settling import Settling
from workers.slots import Slots
from workers.tally import Tally
from workers.watchdog import Life, Sign
from workers.window import Window
from workers.yielding import Hurry, Yielding

log = logging.getLogger(__name__)

#: Processes in a row that may die while they load before the version is called failed: once may be chance (a kernel
#: short of memory), and a version that never loaded is not served until its worker restarts.
_MOST_DEATHS = 3
#: What a model has to let go of a canceled item before its process is ended, and when that is thought over again.
_GRACE_S = 0.5
#: Predictions whose device was lost under them, and who were not charged with that, are remembered: so many.
_MOST_SPARED = 1_000


class Runner:
    """One instance of a model version on this worker's device."""

    def __init__(
        self,
        *,
        worker_id: str,
        window: Window,
        make_executor: Callable[[], Executor],
        predictions: Predictions,
        claims: Claims,
        finisher: Finisher,
        publisher: Publisher,
        progress: Progress,
        materials: Materials,
        outputs: Outputs,
        fetch: Fetch | None,
        limits: Limits,
        loading: threading.Semaphore,
        hurry: Hurry,
        tally: Tally,
        on_state: Callable[[State, str | None, Loaded | None], None],
        on_ended: Callable[[dict[str, Ended], Sequence[str]], None],
    ) -> None:
        """`limits`: the model's, with the most memory that its process may hold. `loading` bounds how many models load
        at once.

        `on_state(state, reason, loaded)`: loading, ready or failed. `on_ended(ended, ids)`: these ids have left this
        worker, and those in `ended` became terminal.
        """
        self._window = window
        self._make_executor = make_executor
        self._publisher = publisher
        self._progress = progress
        self._limits = limits
        self._loading = loading
        self._on_state = on_state
        self._tally = tally
        self._labels = (window.model, window.version)

        yielding = Yielding(hurry)
        self._slots = Slots(window, claims)
        self._ceiling = Ceiling(window.max_batch_size)
        self._settling = Settling(
            window=window,
            predictions=predictions,
            claims=claims,
            finisher=finisher,
            publisher=publisher,
            progress=progress,
            outputs=outputs,
            yielding=yielding,
            tally=tally,
            on_ended=on_ended,
        )
        self._feed = Feed(
            window=window,
            slots=self._slots,
            claiming=Claiming(
                worker_id=worker_id,
                window=window,
                predictions=predictions,
                claims=claims,
                stopping=lambda: self._slots.leaving,
                on_ended=on_ended,
            ),
            claims=claims,
            settling=self._settling,
            finisher=finisher,
            yielding=yielding,
            ceiling=self._ceiling,
            materials=materials,
            fetch=fetch,
        )
        self._reloads = Reloads()
        self._loading_executor: Executor | None = None
        self._first_load = threading.Event()
        self.failed: str | None = None
        self._spared: dict[str, None] = {}  # by prediction id, oldest first
        self._hearing = Life(f"the device thread of {window.model}@{window.version}")
        self._hearing.rests()
        self._thread = threading.Thread(target=self._run, name=f"device {window.model}", daemon=True)

    @property
    def pid(self) -> int | None:
        """The device process, while there is one."""
        executor = self._slots.executor
        return None if executor is None else executor.pid

    @property
    def busy(self) -> bool:
        """It has claimed something that has not ended."""
        return bool(self._slots.in_flight or self._feed.gathering or self._slots.again is not None)

    @property
    def running_s(self) -> float:
        """How long the device has been at the present call; 0 while there is none."""
        return self._slots.running_s()

    def signs(self) -> list[Sign]:
        """Of both threads. Asked by one thread."""
        more_s = 2 * self._limits.timeout_s
        return [
            *(sign._replace(more_s=more_s) for sign in self._hearing.sign()),
            *self._feed.signs(busy=self.busy),
        ]

    def start(self) -> None:
        self._thread.start()
        self._feed.start()

    def wait_loaded(self, timeout_s: float | None = None) -> bool:
        """Until the first load has succeeded or failed."""
        return self._first_load.wait(timeout_s)

    def drain(self, deadline: float) -> None:
        """Finish what the device has, up to `deadline` (monotonic), and hand back the rest, uncharged.

        The window must be closed before.
        """
        with self._slots.changed:
            self._slots.changed.notify_all()  # feed may wait for a slot, and looks at the window only when woken
        self._feed.join(max(0.0, deadline - time.monotonic()))
        with self._slots.changed:
            self._slots.changed.wait_for(lambda: not self._slots.in_flight, max(0.0, deadline - time.monotonic()))
            self._slots.stopping = True
            executor, left = self._slots.executor, list(self._slots.in_flight)
            if self._slots.again is not None:
                left.append(self._slots.again)
            waiting = self._feed.gathering.abandon()
            self._slots.executor = self._slots.again = None
            self._slots.in_flight.clear()
            self._slots.changed.notify_all()
        if executor is not None:
            if left:
                executor.kill()
            else:
                executor.close()
        for call in left:
            self._settling.hand_back(call.rows, call.claims)
        for rows, claims in waiting:
            self._settling.hand_back(rows, claims)
        self._end_device_thread()

    def _end_device_thread(self) -> None:
        """A load under way is given up, again and again: it may only just be starting its process."""
        give_up = time.monotonic() + 3.0
        while self._thread.is_alive() and time.monotonic() < give_up:
            loading = self._loading_executor
            if loading is not None:
                loading.kill()
            self._thread.join(0.05)

    def cancel(self, canceling: Mapping[str, str]) -> None:
        """Prediction id → claim. Those of other runners, and those not yet on their way, are passed over."""
        with self._slots.changed:
            executor = self._slots.executor
            calls = [call for call in self._slots.in_flight if call.sent]
        if executor is not None:
            for call in calls:
                if any(canceling.get(id_) == claim for id_, claim in call.claims.items()):
                    self._slots.pass_on_cancels(call, executor)

    # ── its thread ────────────────────────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        pause = 0.2
        deaths = 0
        while not self._slots.stopping:
            self._slots.recycling = False
            executor = self._make_executor()
            self._on_state("loading", None, None)
            try:
                with self._loading:
                    if self._slots.stopping:
                        return
                    self._loading_executor = executor
                    began = time.monotonic()
                    loaded = executor.load()
                    self._check_memory(executor)
                    self._reloads.seconds = time.monotonic() - began
            except LoadFailed as error:
                executor.kill()
                if self._slots.stopping:
                    return
                log.error("%s@%s does not load: %s", *self._labels, error)
                deaths += 1
                if not isinstance(error, DiedLoading) or deaths >= _MOST_DEATHS:
                    self._on_state("failed", str(error), None)
                    if not self._first_load.is_set():
                        self.failed = str(error)
                        self._first_load.set()
                        return
                    self._let_go()
                self._pause(pause)
                pause = min(pause * 2, 30.0)
                continue
            deaths = 0
            self._slots.loadable = True
            self._loading_executor = None
            self._on_state("ready", None, loaded)
            self._first_load.set()
            served = self._receive_from(executor)
            pause = 0.2 if served else min(pause * 2, 30.0)
            if not served:
                self._pause(pause)  # it loads and dies: do not spin

    def _let_go(self) -> None:
        """Nobody knows when it will load again, if ever: what was claimed for it may be computed elsewhere."""
        with self._slots.changed:
            self._slots.loadable = False
            again, self._slots.again = self._slots.again, None
            self._slots.changed.notify_all()
        if again is not None:
            self._settling.hand_back(again.rows, again.claims)

    def _receive_from(self, executor: Executor) -> bool:
        """Until this process is gone; whether it answered anything."""
        served = False
        with self._slots.changed:
            if self._slots.stopping:
                executor.close()
                return True
            again, self._slots.again = self._slots.again, None
            if again is not None:
                self._slots.in_flight.append(again)
                self._slots.began = time.monotonic()
        try:
            if again is not None:
                with self._hearing.at_work():
                    self._slots.submit(again, executor)  # before others can send, so that it is the first there too
            with self._slots.changed:
                if self._slots.stopping:  # what was sent has been handed back
                    executor.close()
                    return True
                self._slots.executor = executor
                self._slots.changed.notify_all()
            if again is not None:
                self._slots.pass_on_cancels(again, executor)  # those that came before there was somebody to tell
            while True:
                with self._hearing.at_work():
                    answer = executor.hear(self._next_look_s())
                if isinstance(answer, Reply):
                    served = True
                    self._received(answer, executor)
                elif answer is not None:
                    self._said(answer)
                if self._look(executor) or self._recycle(executor):
                    return True
        except (DeviceLost, DeviceHung) as error:
            self._lost(executor, error)
        return served

    def _check_memory(self, executor: Executor) -> None:
        """Raises LoadFailed: one that is too large from the beginning would be loaded for ever."""
        held, most = memory.resident(executor.pid), self._limits.memory
        if held is not None and most is not None and held >= most:
            raise LoadFailed(f"its process holds {held} bytes when it is loaded, and may hold {most} ([limits] memory)")

    def _recycle(self, executor: Executor) -> bool:
        """Whether the process was ended because it has come to hold too much; not before it has answered all it has."""
        most = self._limits.memory
        if most is None:
            return False
        if not self._slots.recycling:
            held = memory.resident(executor.pid)
            if held is None or held < most:
                return False
            log.warning("%s@%s holds %d bytes, and may hold %d: it is loaded anew", *self._labels, held, most)
            self._slots.recycling = True
            self._window.wake()
        with self._slots.changed:
            if self._slots.in_flight or self._slots.executor is not executor:
                return False
            self._slots.executor = None
            self._slots.pace = math.nan
            self._slots.changed.notify_all()
        executor.close()
        metrics.recycled(self._labels)
        return True

    def _received(self, reply: Reply, executor: Executor) -> None:
        with self._slots.changed:
            answered = self._slots.answered(reply.call_id)
            if answered is None:
                return
            call, took = answered
            self._learn(reply)
            suspicious = self._suspicious(call, reply)
            if suspicious:
                call.second_try, call.sent = True, False
                self._slots.again = call
                self._reloads.chosen(time.monotonic())
            idle = not self._slots.in_flight
            self._slots.changed.notify_all()
        self._tally.computed(len(call.claims), took)
        self._window.wake()
        if suspicious:
            log.warning("%s@%s failed every item of a batch alone: once more on a fresh process", *self._labels)
            executor.kill()
        else:
            outcomes = self._retry_memory(call, call.waiting(reply.outcomes))
            if outcomes:
                metrics.computed(self._labels, outcomes)
                self._settling.settle(call.claims, call.rows, outcomes, idle, call.taken_at)

    def _learn(self, reply: Reply) -> None:
        if reply.too_many is None:
            self._ceiling.clean()
            return
        self._ceiling.too_many(reply.too_many)
        log.warning(
            "%s@%s: %d predictions do not fit into memory at once, now at most %d",
            *(*self._labels, reply.too_many, self._ceiling.at_most),
        )

    def _retry_memory(self, call: Call, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Memory was too small for these alone: their fault, perhaps, or a neighbour's. The others are returned."""
        short = {one.id: one.error for one in outcomes if one.error and one.error.code is ItemCode.OUT_OF_MEMORY}
        for row in call.rows:
            if (error := short.get(row.id)) is not None:
                self._settling.give_back(
                    [row], call.claims, losses=2, charge=True, code=ItemCode.OUT_OF_MEMORY, message=error.message
                )
        return [one for one in outcomes if one.id not in short]

    def _suspicious(self, call: Call, reply: Reply) -> bool:
        """All failed alone: is it the items or the process? A fresh one tells, where a reload can be afforded."""
        return (
            len(call.rows) > 1
            and not call.second_try
            and all(one.error is not None and one.error.code is ItemCode.MODEL_ERROR for one in reply.outcomes)
            and self._reloads.affordable(time.monotonic())
        )

    def _said(self, said: Said) -> None:
        """Reports go to Redis, progress to SQL as well; an item whose cancel the model has heeded is settled."""
        with self._slots.changed:
            call = next((call for call in self._slots.in_flight if call.id == said.call_id), None)
            if call is None:
                return
            reports = call.reports(said.sayings)
            heeded = call.leave(id_ for id_, what, _ in said.sayings if what == "canceled")
            if not call.rows:
                call.unwanted_since = call.unwanted_since or time.monotonic()
            elif not self._slots.canceled(call):
                call.unwanted_since = None
        for id_, what, json in said.sayings:
            if what == "progress":
                self._progress.said(id_, call.claims[id_], json)
        if reports:
            self._publisher.reports(reports)
        if heeded:
            canceled = [Outcome(id=row.id, canceled=True) for row in heeded]
            self._settling.settle(call.claims, heeded, canceled, idle=False)

    def _next_look_s(self) -> float:
        """Seconds until something is to be done for the call on the device, though it says nothing."""
        with self._slots.changed:
            if not self._slots.in_flight:
                return math.inf
            call = self._slots.in_flight[0]
            at = math.inf
            if (limit := call.next_limit_s()) is not None:
                at = self._slots.began + limit
            if call.unwanted_since is not None:
                now = time.monotonic()
                ripe = max(call.unwanted_since, self._slots.began) + _GRACE_S
                at = min(at, ripe if ripe > now else now + _GRACE_S)
            return max(0.0, at - time.monotonic())

    def _look(self, executor: Executor) -> bool:
        """Settles what is over its own time. Whether the process was ended, because nobody wants what it does."""
        with self._slots.changed:
            if not self._slots.in_flight or self._slots.executor is not executor:
                return False
            call, now = self._slots.in_flight[0], time.monotonic()
            ran = now - self._slots.began
            late = call.late(ran)
            rows = call.leave(one.id for one in late)
            if late and not call.rows and call.unwanted_since is None:
                call.unwanted_since = now
            ended = self._unwanted(call, now)
            if ended:
                calls, self._slots.executor = list(self._slots.in_flight), None
                self._slots.in_flight.clear()
                self._slots.pace = math.nan
                self._reloads.chosen(now)
                self._slots.changed.notify_all()
        if late:
            executor.cancel(call.id, [one.id for one in late])
            self._settling.settle(call.claims, rows, late, idle=False)
        if ended:
            self._window.wake()
            executor.kill()
            log.info("%s@%s was ended: it computed what nobody wanted, for %.1f s", *self._labels, ran)
            for call in calls:
                self._settling.hand_back(call.rows, call.claims)
        return ended

    def _unwanted(self, call: Call, now: float) -> bool:
        """Whether to end the process rather than to wait for this call."""
        return (
            call.unwanted_since is not None
            and now >= max(call.unwanted_since, self._slots.began) + _GRACE_S
            and self._reloads.worthwhile(now - self._slots.began, self._slots.pace)
            and self._reloads.affordable(now)
        )

    def _lost(self, executor: Executor, error: DeviceLost | DeviceHung) -> None:
        with self._slots.changed:
            # It may die before it is known to others, with what is to be run again.
            unknown = self._slots.executor is None and bool(self._slots.in_flight) and not self._slots.stopping
            ours = unknown or self._slots.executor is executor
            calls = list(self._slots.in_flight) if ours else []
            if ours:
                self._slots.executor = None
                self._slots.in_flight.clear()
            self._slots.pace = math.nan
            self._slots.changed.notify_all()
        self._window.wake()
        executor.kill()
        if not ours or (self._slots.again is not None and not calls):
            return
        suspect = {"prediction_id": calls[0].rows[0].id} if calls and len(calls[0].rows) == 1 else {}
        log.error("%s@%s: %s", *self._labels, error, extra={"calls": len(calls), **suspect})
        metrics.device_deaths(self._labels)
        if calls and self._slots.again is None:
            on_device = calls.pop(0)
            code = ItemCode.EXECUTION_TIMEOUT if isinstance(error, DeviceHung) else ItemCode.WORKER_LOST
            reason = "device_hung" if isinstance(error, DeviceHung) else "device_lost"
            metrics.lost_attempts(self._labels, reason, len(on_device.rows))
            if isinstance(error, DeviceLost) and not isinstance(error, AcceleratorLost) and not on_device.alone:
                self._ceiling.crashed()
            if isinstance(error, AcceleratorLost) and self._spare(on_device.rows):
                self._settling.give_back(
                    on_device.rows, on_device.claims, losses=None, charge=False, code=code, message=""
                )
            else:
                self._settling.give_back(
                    on_device.rows, on_device.claims, losses=2, charge=on_device.alone, code=code, message=str(error)
                )
        for waiting in calls:
            self._settling.hand_back(waiting.rows, waiting.claims)

    def _spare(self, rows: Sequence[Claimed]) -> bool:
        """Whether these are not to blame for the loss of the device: once each, since a model may only say so."""
        new = all(row.id not in self._spared for row in rows)
        self._spared |= dict.fromkeys(row.id for row in rows)
        while len(self._spared) > _MOST_SPARED:
            del self._spared[next(iter(self._spared))]
        return new

    def _pause(self, seconds: float) -> None:
        with self._slots.changed:
            self._slots.changed.wait_for(lambda: self._slots.stopping, seconds)
