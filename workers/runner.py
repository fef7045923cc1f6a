"""One device process at work: take, claim, compute, finish.

Two threads. *Feed* takes a micro-batch from the window when the device can begin one, claims its rows and sends them.
Rows whose inputs are still to be read or fetched are sent by a thread of their own once that is done, so that neither
their mates nor the device wait for them.
*Device* owns the process: it loads the model, receives results, hands them to the finisher, and when the process dies
gives its work back and starts another. At most two calls are in flight, so the device finds the next one waiting while
the results of the last are written; nothing else is taken out of the window early.

What nobody wants any more is told to the device process. One that does not let go of it soon is ended, where that costs
less than to wait; the mates are handed back, and run again.
"""

import logging
import math
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence

from batching.ceiling import Ceiling
from batching.policy import Pace, Waiting
from batching.reloads import Reloads
from headway import broker, failpoints
from headway.clock import new_id
from headway.errors import ItemCode, StorageUnavailable
from headway.manifest import Fetch, Limits
from headway.notices import Ended
from headway.registry import State
from headway.types import Claimed, Outcome
from storage.predictions import Predictions
from storage.returning import Returned
from storage.running import Finished
from workers import memory, metrics
from workers.call import Call, by_claim
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
from workers.finisher import Finisher, Settled, persist
from workers.materials import Materials, lacks
from workers.outputs import Outputs, lies_apart
from workers.progress import Progress
from workers.publisher import Publisher
from workers.tally import Tally
from workers.watchdog import Life, Sign
from workers.window import Window
from workers.yielding import Hurry, Yielding

log = logging.getLogger(__name__)

_IN_FLIGHT = 2
#: Micro-batches whose inputs may be read or fetched at once; beyond that nothing more is taken.
_GATHERING = 4
#: Before rows whose inputs cannot be read now are handed back, doubled while that lasts. Seconds.
_STORE_AWAY_S = (2.0, 30.0)
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
        self._worker_id = worker_id
        self._window = window
        self._make_executor = make_executor
        self._predictions = predictions
        self._claims = claims
        self._finisher = finisher
        self._publisher = publisher
        self._progress = progress
        self._materials = materials
        self._outputs = outputs
        self._fetch = fetch
        self._limits = limits
        self._loading = loading
        self._on_state = on_state
        self._on_ended = on_ended
        self._tally = tally
        self._labels = (window.model, window.version)

        self._changed = threading.Condition()
        self._settling = threading.Lock()
        self._executor: Executor | None = None  # None while none is ready
        self._loading_executor: Executor | None = None
        self._in_flight: deque[Call] = deque()
        self._again: Call | None = None  # to be run first on the next process
        self._gathering: dict[
            int, tuple[list[Claimed], dict[str, str]]
        ] = {}  # what is still to be read or fetched, by whatever number
        self._gathered = 0
        self._store_away_s = _STORE_AWAY_S[0]
        self._sending = threading.Lock()  # calls reach the process in the order of `_in_flight`
        self._calls = 0
        self._ceiling = Ceiling(window.max_batch_size)
        self._stopping = False
        self._first_load = threading.Event()
        self.failed: str | None = None

        # What the device's pace was, to know when it will be free.
        self._began = 0.0  # when the oldest call in flight could begin
        self._pace = math.nan  # seconds a call, moving average
        self._lead = 0.003  # seconds from a take to the call being in the pipe, moving average
        self._reloads = Reloads()
        self._yielding = Yielding(hurry)

        self._recycling = False  # the process holds too much memory, and ends when it has answered
        self._spared: dict[str, None] = {}  # by prediction id, oldest first
        self._hearing = Life(f"the device thread of {window.model}@{window.version}")
        self._claiming = Life(f"the feed of {window.model}@{window.version}, which claims,")
        self._hearing.rests()
        self._claiming.rests()
        self._taken = self._taken_before = 0  # micro-batches
        self._idle_since = math.inf
        self._loadable = True  # as far as is known
        self._device_thread = threading.Thread(target=self._device, name=f"device {window.model}", daemon=True)
        self._feed_thread = threading.Thread(target=self._feed, name=f"feed {window.model}", daemon=True)

    @property
    def pid(self) -> int | None:
        """The device process, while there is one."""
        executor = self._executor
        return None if executor is None else executor.pid

    @property
    def busy(self) -> bool:
        """It has claimed something that has not ended."""
        return bool(self._in_flight or self._gathering or self._again is not None)

    @property
    def running_s(self) -> float:
        """How long the device has been at the present call; 0 while there is none."""
        with self._changed:
            return time.monotonic() - self._began if self._in_flight else 0.0

    def signs(self) -> list[Sign]:
        """Of both threads, and since when somebody waits in the window of an idle device. Asked by one thread."""
        window = self._window
        claiming = self._claiming.sign()[0].since < math.inf
        idle = self._executor is not None and not self.busy and not claiming and not self._recycling
        if not idle or window.empty or window.paused or not window.open or self._taken != self._taken_before:
            self._idle_since, self._taken_before = math.inf, self._taken
        elif self._idle_since == math.inf:
            self._idle_since = time.monotonic()
        feed = f"the feed of {window.model}@{window.version}, which lets them wait,"
        return [
            *(sign._replace(more_s=2 * self._limits.timeout_s) for sign in self._hearing.sign()),
            *self._claiming.sign(),
            Sign(feed, self._idle_since, window.max_wait_s),
        ]

    def start(self) -> None:
        self._device_thread.start()
        self._feed_thread.start()

    def wait_loaded(self, timeout_s: float | None = None) -> bool:
        """Until the first load has succeeded or failed."""
        return self._first_load.wait(timeout_s)

    def drain(self, deadline: float) -> None:
        """Finish what the device has, up to `deadline` (monotonic), and hand back the rest, uncharged.

        The window must be closed before.
        """
        with self._changed:
            self._changed.notify_all()  # feed may wait for a slot, and looks at the window only when woken
        self._feed_thread.join(max(0.0, deadline - time.monotonic()))
        with self._changed:
            self._changed.wait_for(lambda: not self._in_flight, max(0.0, deadline - time.monotonic()))
            self._stopping = True
            executor, left = self._executor, list(self._in_flight)
            if self._again is not None:
                left.append(self._again)
            waiting = list(self._gathering.values())
            self._executor = self._again = None
            self._in_flight.clear()
            self._gathering.clear()
            self._changed.notify_all()
        if executor is not None:
            if left:
                executor.kill()
            else:
                executor.close()
        for call in left:
            self._hand_back(call.rows, call.claims)
        for rows, claims in waiting:
            self._hand_back(rows, claims)
        self._end_device_thread()

    def _end_device_thread(self) -> None:
        """A load under way is given up, again and again: it may only just be starting its process."""
        give_up = time.monotonic() + 3.0
        while self._device_thread.is_alive() and time.monotonic() < give_up:
            loading = self._loading_executor
            if loading is not None:
                loading.kill()
            self._device_thread.join(0.05)

    def cancel(self, canceling: Mapping[str, str]) -> None:
        """Prediction id → claim. Those of other runners, and those not yet on their way, are passed over."""
        with self._changed:
            executor = self._executor
            calls = [call for call in self._in_flight if call.sent]
        if executor is not None:
            for call in calls:
                if any(canceling.get(id_) == claim for id_, claim in call.claims.items()):
                    self._pass_on_cancels(call, executor)

    def _pass_on_cancels(self, call: Call, executor: Executor) -> None:
        """To the device process, which has the call."""
        with self._changed:
            canceled = self._canceled(call)
            if canceled and call.unwanted_since is None:
                call.unwanted_since = time.monotonic()
        if canceled:
            executor.cancel(call.id, sorted(canceled))
            executor.wake()

    def _canceled(self, call: Call) -> set[str]:
        """The rows of it that nobody wants any more."""
        canceled = self._claims.canceled(call.claims)
        return canceled.intersection(row.id for row in call.rows) if canceled else canceled

    # ── feed ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _feed(self) -> None:
        while (executor := self._await_slot()) is not None:
            taken = self._window.take(
                self._free_at,
                abandon=lambda e=executor: self._executor is not e or self._recycling,  # type: ignore[misc]
                at_most=lambda: self._ceiling.at_most,
                pace=self._pace_of_batches,
            )
            if taken is None:
                if not self._window.open:
                    return
                continue
            began = time.monotonic()
            self._taken += 1
            with self._claiming.at_work():
                rows, claims = self._claim(taken.items)
            if canceled := self._claims.canceled(claims):
                self._hand_back([row for row in rows if row.id in canceled], claims)
                rows = [row for row in rows if row.id not in canceled]
            if lacking := [row for row in rows if lacks(row, self._fetch)]:
                rows = [row for row in rows if not lacks(row, self._fetch)]
                self._gather(lacking, claims)
            self._send_all(rows, claims, taken_at=began)
            self._lead += 0.2 * (time.monotonic() - began - self._lead)
            metrics.formed(self._labels, taken, began)

    def _await_slot(self) -> Executor | None:
        """Until a process is ready and has room; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or not self._window.open or self._has_room())
            return None if self._stopping or not self._window.open else self._executor

    def _has_room(self) -> bool:
        return self._executor is not None and not self._recycling and len(self._in_flight) < _IN_FLIGHT

    def _free_at(self) -> float:
        """When the device could begin another call, less the time it takes to bring it there."""
        if not self._in_flight:
            return 0.0
        return math.inf if math.isnan(self._pace) else self._began + self._pace - self._lead

    def _pace_of_batches(self) -> Pace:
        busy = any(call.bulk for call in tuple(self._in_flight)) or self._finisher.bulk_waiting
        return self._yielding.pace(busy=busy)

    def _claim(self, items: Sequence[Waiting]) -> tuple[list[Claimed], dict[str, str]]:
        """The rows that are ours now, filled up from the window where some were not to be had."""
        rows, claims = self._claim_some(items)
        missing = len(items) - len(rows)
        if missing:
            metrics.dead_hints(self._labels, missing)
            if mates := self._window.top_up([item for item in items if item.id in claims], missing):
                more, their_claims = self._claim_some(mates)
                rows, claims = rows + more, claims | their_claims
        return rows, claims

    def _claim_some(self, items: Sequence[Waiting]) -> tuple[list[Claimed], dict[str, str]]:
        ids = [item.id for item in items]
        pause = 0.05
        while True:
            claim = new_id()
            self._claiming.goes_on()  # it may be the tenth try
            self._claims.open(claim, ids)
            try:
                failpoints.hit("claim.begin", failpoints.storage_lost)
                rows = self._predictions.claim(claim, self._worker_id, ids, *self._labels)
                failpoints.hit("claim.committed", failpoints.storage_lost)
                break
            except StorageUnavailable as error:
                self._claims.drop(claim)
                if self._stopping or not self._window.open:
                    rows = []
                    break
                log.warning("sql is away, a claim waits: %s", error)
                time.sleep(pause)
                pause = min(pause * 2, 2.0)
        if claim in self._claims:
            self._claims.hold(claim, [row.id for row in rows])
        got = {row.id: claim for row in rows}
        not_ours = [id_ for id_ in ids if id_ not in got]
        self._window.forget(not_ours)
        self._on_ended({}, not_ours)
        return rows, got

    def _gather(self, rows: list[Claimed], claims: dict[str, str]) -> None:
        """Begins to read and fetch what these rows lack, as soon as fewer than `_GATHERING` others do."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or not self._window.open or len(self._gathering) < _GATHERING)
            stopping = self._stopping or not self._window.open
            if not stopping:
                self._gathered += 1
                number = self._gathered
                self._gathering[number] = rows, claims
        if stopping:
            self._hand_back(rows, claims)
        else:
            threading.Thread(target=self._bring, args=(number, rows, claims), name="gather", daemon=True).start()

    def _bring(self, number: int, rows: list[Claimed], claims: dict[str, str]) -> None:
        """A thread of its own: sends the rows once they lack nothing."""
        gathered = self._materials.gather(rows, self._fetch)
        if gathered.untouched:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or not self._window.open, self._store_away_s)
            self._store_away_s = min(self._store_away_s * 2, _STORE_AWAY_S[1])
        else:
            self._store_away_s = _STORE_AWAY_S[0]
        with self._changed:
            ours = self._gathering.pop(number, None) is not None
            self._changed.notify_all()
        if not ours:
            return  # the worker stops, and has handed them back
        if gathered.refused:
            refused = {one.id for one in gathered.refused}
            self._settle(claims, [row for row in rows if row.id in refused], gathered.refused, idle=False)
        if gathered.untouched:
            self._hand_back(gathered.untouched, claims)
        self._send_all(gathered.ready, claims, taken_at=time.monotonic())

    def _send_all(self, rows: list[Claimed], claims: dict[str, str], *, taken_at: float) -> None:
        for call in self._split(rows, claims):
            call.taken_at = taken_at
            self._send(call)

    def _split(self, rows: list[Claimed], claims: dict[str, str]) -> list[Call]:
        """Calls by the company each row may keep after what it has been through."""
        bulk = all(broker.is_bulk(row.line) for row in rows)
        few = max(1, self._window.max_batch_size // 8)
        free = [row for row in rows if row.losses == 0]
        wary = [row for row in rows if row.losses == 1]
        parts = [free] if free else []
        parts += [wary[at : at + few] for at in range(0, len(wary), few)]
        parts += [[row] for row in rows if row.losses >= 2]
        calls = []
        for part in parts:
            with self._changed:
                self._calls += 1
                number = self._calls
            calls.append(Call(number, part, {row.id: claims[row.id] for row in part}, bulk))
        return calls

    def _send(self, call: Call) -> None:
        with self._sending:
            self._send_next(call)

    def _send_next(self, call: Call) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or not self._loadable or self._has_room())
            executor = self._executor if self._has_room() and not self._stopping else None
            if executor is not None:
                if not self._in_flight:
                    self._began = time.monotonic()
                self._in_flight.append(call)
                self._changed.notify_all()
        if executor is None:
            self._hand_back(call.rows, call.claims)
            return
        try:
            self._submit(call, executor)
        except DeviceLost:
            log.debug("the device process died before call %d reached it", call.id)  # its thread gives the call back

    def _submit(self, call: Call, executor: Executor) -> None:
        """Raises DeviceLost."""
        executor.submit(call.id, call.submission(), call.types())
        with self._changed:
            call.sent = True
        self._pass_on_cancels(call, executor)  # those that came before it was sent
        if call.next_limit_s() is not None:
            executor.wake()

    # ── device ────────────────────────────────────────────────────────────────────────────────────────────────

    def _device(self) -> None:
        pause = 0.2
        deaths = 0
        while not self._stopping:
            self._recycling = False
            executor = self._make_executor()
            self._on_state("loading", None, None)
            try:
                with self._loading:
                    if self._stopping:
                        return
                    self._loading_executor = executor
                    began = time.monotonic()
                    loaded = executor.load()
                    self._check_memory(executor)
                    self._reloads.seconds = time.monotonic() - began
            except LoadFailed as error:
                executor.kill()
                if self._stopping:
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
            self._loadable = True
            self._loading_executor = None
            self._on_state("ready", None, loaded)
            self._first_load.set()
            served = self._receive_from(executor)
            pause = 0.2 if served else min(pause * 2, 30.0)
            if not served:
                self._pause(pause)  # it loads and dies: do not spin

    def _let_go(self) -> None:
        """Nobody knows when it will load again, if ever: what was claimed for it may be computed elsewhere."""
        with self._changed:
            self._loadable = False
            again, self._again = self._again, None
            self._changed.notify_all()
        if again is not None:
            self._hand_back(again.rows, again.claims)

    def _receive_from(self, executor: Executor) -> bool:
        """Until this process is gone; whether it answered anything."""
        served = False
        with self._changed:
            if self._stopping:
                executor.close()
                return True
            again, self._again = self._again, None
            if again is not None:
                self._in_flight.append(again)
                self._began = time.monotonic()
        try:
            if again is not None:
                with self._hearing.at_work():
                    self._submit(again, executor)  # before others can send, so that it is the first there too
            with self._changed:
                if self._stopping:  # what was sent has been handed back
                    executor.close()
                    return True
                self._executor = executor
                self._changed.notify_all()
            if again is not None:
                self._pass_on_cancels(again, executor)  # those that came before there was somebody to tell
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
        if not self._recycling:
            held = memory.resident(executor.pid)
            if held is None or held < most:
                return False
            log.warning("%s@%s holds %d bytes, and may hold %d: it is loaded anew", *self._labels, held, most)
            self._recycling = True
            self._window.wake()
        with self._changed:
            if self._in_flight or self._executor is not executor:
                return False
            self._executor = None
            self._pace = math.nan
            self._changed.notify_all()
        executor.close()
        metrics.recycled(self._labels)
        return True

    def _received(self, reply: Reply, executor: Executor) -> None:
        now = time.monotonic()
        with self._changed:
            if not self._in_flight or self._in_flight[0].id != reply.call_id:
                return  # handed back while it was on its way: the fence would turn it away anyhow
            call = self._in_flight.popleft()
            took = now - self._began
            self._began = now
            self._pace = took if math.isnan(self._pace) else self._pace + 0.2 * (took - self._pace)
            self._learn(reply)
            suspicious = self._suspicious(call, reply)
            if suspicious:
                call.second_try, call.sent = True, False
                self._again = call
                self._reloads.chosen(now)
            idle = not self._in_flight
            self._changed.notify_all()
        self._tally.computed(len(call.claims), took)
        self._window.wake()
        if suspicious:
            log.warning("%s@%s failed every item of a batch alone: once more on a fresh process", *self._labels)
            executor.kill()
        else:
            outcomes = self._retry_memory(call, call.waiting(reply.outcomes))
            if outcomes:
                metrics.computed(self._labels, outcomes)
                self._settle(call.claims, call.rows, outcomes, idle, call.taken_at)

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
                self._give_back(
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

    def _settle(
        self,
        claims: Mapping[str, str],
        rows: Sequence[Claimed],
        outcomes: Sequence[Outcome],
        idle: bool,
        taken_at: float | None = None,
    ) -> None:
        """Off to SQL, and what is too large for it to the blob store before."""
        apart = [one for one in outcomes if lies_apart(one)]
        if apart:
            self._outputs.put(apart, claims, lambda written: self._finish(claims, rows, written, idle=False))
            outcomes = [one for one in outcomes if not lies_apart(one)]
        if outcomes:
            self._finish(claims, rows, outcomes, idle, taken_at)

    def _finish(
        self,
        claims: Mapping[str, str],
        rows: Sequence[Claimed],
        outcomes: Sequence[Outcome],
        idle: bool,
        taken_at: float | None = None,
    ) -> None:
        """While the device is idle this thread may as well write itself: one hand-over less."""
        parted: dict[str, list[Outcome]] = defaultdict(list)
        for outcome in outcomes:
            parted[claims[outcome.id]].append(outcome)
        ids = [one.id for one in outcomes]
        self._progress.forget(ids)
        # Thousands of a batch end in a second, and who follows it reads the batch.
        unheard = {row.id for row in rows if broker.is_bulk(row.line)}
        bulk = unheard.issuperset(ids)

        def done(ended: dict[str, Ended]) -> None:
            self._outputs.remove_lost(outcomes, claims, ended)
            self._window.forget(ids)
            metrics.finished(self._labels, rows, ended)
            self._tally.finished(rows, ended)
            self._on_ended(ended, ids)
            if bulk and taken_at is not None:
                self._yielding.ended(taken_at, max(one.predict_us for one in outcomes) / 1e6)
            if bulk:
                self._window.wake()  # the next may have waited for this one

        with self._settling:  # whoever settles the last of a claim must also come last to the finisher
            parts = [
                Finished(claim=claim, outcomes=part, settled=self._claims.settle(claim, [one.id for one in part]))
                for claim, part in parted.items()
            ]
            self._finisher.put(Settled(parts, done, bulk, unheard), at_once=idle)

    def _said(self, said: Said) -> None:
        """Reports go to Redis, progress to SQL as well; an item whose cancel the model has heeded is settled."""
        with self._changed:
            call = next((call for call in self._in_flight if call.id == said.call_id), None)
            if call is None:
                return
            reports = call.reports(said.sayings)
            heeded = call.leave(id_ for id_, what, _ in said.sayings if what == "canceled")
            if not call.rows:
                call.unwanted_since = call.unwanted_since or time.monotonic()
            elif not self._canceled(call):
                call.unwanted_since = None
        for id_, what, json in said.sayings:
            if what == "progress":
                self._progress.said(id_, call.claims[id_], json)
        if reports:
            self._publisher.reports(reports)
        if heeded:
            self._settle(call.claims, heeded, [Outcome(id=row.id, canceled=True) for row in heeded], idle=False)

    def _next_look_s(self) -> float:
        """Seconds until something is to be done for the call on the device, though it says nothing."""
        with self._changed:
            if not self._in_flight:
                return math.inf
            call = self._in_flight[0]
            at = math.inf
            if (limit := call.next_limit_s()) is not None:
                at = self._began + limit
            if call.unwanted_since is not None:
                now = time.monotonic()
                ripe = max(call.unwanted_since, self._began) + _GRACE_S
                at = min(at, ripe if ripe > now else now + _GRACE_S)
            return max(0.0, at - time.monotonic())

    def _look(self, executor: Executor) -> bool:
        """Settles what is over its own time. Whether the process was ended, because nobody wants what it does."""
        with self._changed:
            if not self._in_flight or self._executor is not executor:
                return False
            call, now = self._in_flight[0], time.monotonic()
            ran = now - self._began
            late = call.late(ran)
            rows = call.leave(one.id for one in late)
            if late and not call.rows and call.unwanted_since is None:
                call.unwanted_since = now
            ended = self._unwanted(call, now)
            if ended:
                calls, self._executor = list(self._in_flight), None
                self._in_flight.clear()
                self._pace = math.nan
                self._reloads.chosen(now)
                self._changed.notify_all()
        if late:
            executor.cancel(call.id, [one.id for one in late])
            self._settle(call.claims, rows, late, idle=False)
        if ended:
            self._window.wake()
            executor.kill()
            log.info("%s@%s was ended: it computed what nobody wanted, for %.1f s", *self._labels, ran)
            for call in calls:
                self._hand_back(call.rows, call.claims)
        return ended

    def _unwanted(self, call: Call, now: float) -> bool:
        """Whether to end the process rather than to wait for this call."""
        return (
            call.unwanted_since is not None
            and now >= max(call.unwanted_since, self._began) + _GRACE_S
            and self._reloads.worthwhile(now - self._began, self._pace)
            and self._reloads.affordable(now)
        )

    def _lost(self, executor: Executor, error: DeviceLost | DeviceHung) -> None:
        with self._changed:
            # It may die before it is known to others, with what is to be run again.
            unknown = self._executor is None and bool(self._in_flight) and not self._stopping
            ours = unknown or self._executor is executor
            calls = list(self._in_flight) if ours else []
            if ours:
                self._executor = None
                self._in_flight.clear()
            self._pace = math.nan
            self._changed.notify_all()
        self._window.wake()
        executor.kill()
        if not ours or (self._again is not None and not calls):
            return
        suspect = {"prediction_id": calls[0].rows[0].id} if calls and len(calls[0].rows) == 1 else {}
        log.error("%s@%s: %s", *self._labels, error, extra={"calls": len(calls), **suspect})
        metrics.device_deaths(self._labels)
        if calls and self._again is None:
            on_device = calls.pop(0)
            code = ItemCode.EXECUTION_TIMEOUT if isinstance(error, DeviceHung) else ItemCode.WORKER_LOST
            reason = "device_hung" if isinstance(error, DeviceHung) else "device_lost"
            metrics.lost_attempts(self._labels, reason, len(on_device.rows))
            if isinstance(error, DeviceLost) and not isinstance(error, AcceleratorLost) and not on_device.alone:
                self._ceiling.crashed()
            if isinstance(error, AcceleratorLost) and self._spare(on_device.rows):
                self._give_back(on_device.rows, on_device.claims, losses=None, charge=False, code=code, message="")
            else:
                self._give_back(
                    on_device.rows, on_device.claims, losses=2, charge=on_device.alone, code=code, message=str(error)
                )
        for waiting in calls:
            self._hand_back(waiting.rows, waiting.claims)

    def _spare(self, rows: Sequence[Claimed]) -> bool:
        """Whether these are not to blame for the loss of the device: once each, since a model may only say so."""
        new = all(row.id not in self._spared for row in rows)
        self._spared |= dict.fromkeys(row.id for row in rows)
        while len(self._spared) > _MOST_SPARED:
            del self._spared[next(iter(self._spared))]
        return new

    def _hand_back(self, rows: Sequence[Claimed], claims: dict[str, str]) -> None:
        metrics.lost_attempts(self._labels, "handed_back", len(rows))
        self._give_back(rows, claims, losses=None, charge=False, code=ItemCode.WORKER_LOST, message="")

    def _give_back(
        self,
        rows: Sequence[Claimed],
        claims: dict[str, str],
        *,
        losses: int | None,
        charge: bool,
        code: ItemCode,
        message: str,
    ) -> None:
        for claim, ids in by_claim((row.id for row in rows), claims).items():
            returned = [Returned(id=id_, losses=losses, charge=charge, code=code, message=message) for id_ in ids]
            settled = self._claims.settle(claim, ids)
            given = persist(lambda c=claim, r=returned, s=settled: self._predictions.give_back(c, r, s))  # type: ignore[misc]
            self._window.forget(ids)
            self._publisher.ended(given.ended)
            self._publisher.requeue(given.queued)
            metrics.became_terminal(self._labels, given.ended)
            self._on_ended(given.ended, ids)

    def _pause(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopping, seconds)
