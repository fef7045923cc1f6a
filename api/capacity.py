"""Whether a model's queue has room for a submission (`max_queue`).

The queue is counted in SQL every half second while something is submitted, no further than `max_queue`; in between,
what this process has accepted is added. What has left the queue since makes that too many, so nobody is refused for it
before it is counted anew. A queue that was full by itself is counted ten times a second, and meanwhile refuses at once:
when many are refused, none of them should wait. What other API processes accept shows only in the next count: with
several of them the bound is that much softer.
"""

import asyncio
import math
import time

from api import metrics
from api.problems import Problem
from api.refreshing import seen
from api.registry import ModelView, Registry, Target
from api.submitter import Submitter
from api.threads import Threads
from headway import broker
from storage.predictions import Predictions
from storage.tenants import Tenants

#: How old a count may become while something is submitted, seconds.
_EVERY_S = 0.5
#: The same where it was full.
_FULL_S = 0.1
#: A long queue takes its time to count, and many may be refused: no more than a tenth of a thread's.
_SHARE = 0.1
#: So long somebody waits until it may be counted, and so often, where only what was accepted since makes it full: some
#: of that may have been counted, too.
_WAIT_S = 1.0
_COUNTS = 3
#: A refused caller comes back when this share of the queue has been worked off.
_ROOM = 0.1
_LONGEST_S = 60


class _Queue:
    """What is known of a model's queue."""

    __slots__ = ("accepted", "began", "counted", "task", "took")

    def __init__(self) -> None:
        self.counted = 0
        self.accepted = 0  # by this process, when the count began
        self.began = -math.inf  # monotonic
        self.took = 0.0
        self.task: asyncio.Task[None] | None = None  # a count under way

    @property
    def age(self) -> float:
        """Of the count, seconds."""
        return time.monotonic() - self.began

    def pause(self, *, full: bool) -> float:
        """Between two counts, seconds."""
        return max(_FULL_S if full else _EVERY_S, self.took / _SHARE)

    def decides(self) -> bool:
        """Whether a count by which it is full is young enough to refuse by."""
        return self.age < 2 * self.pause(full=True)


class Capacity:
    """`admit` before a submission, with nothing awaited between the two."""

    def __init__(self, predictions: Predictions, tenants: Tenants, registry: Registry, submitter: Submitter) -> None:
        self._predictions = predictions
        self._tenants = tenants
        self._registry = registry
        self._submitter = submitter
        self._thread = Threads("capacity", 1)
        self._queues: dict[str, _Queue] = {}

    def check(self, view: ModelView) -> None:
        """Before anything of a submission is read: raises Problem queue_full where `admit` would, whatever it is."""
        queue = self._queues.get(view.name)
        widest = view.widest
        if queue is None or queue.counted < widest.max_queue:
            return
        if queue.task is None and queue.age >= queue.pause(full=True):
            self._begin(queue, view.name)
        if queue.decides():
            metrics.refused("queue_full")
            raise _full(view, widest)

    async def admit(self, target: Target, count: int = 1) -> None:
        """Raises Problem queue_full; StorageUnavailable where the queue had to be counted."""
        queue = self._queues.get(target.model)
        if queue is None:
            queue = self._queues[target.model] = _Queue()
            await self._count(queue, target.model)
        was_full = queue.counted + count > target.max_queue
        if queue.task is None and queue.age >= queue.pause(full=was_full):
            self._begin(queue, target.model)
        if self._fits(queue, target, count):
            return
        for _ in range(_COUNTS):
            if was_full and queue.decides():
                break
            if queue.task is None and (wait_s := queue.took / _SHARE - queue.age) > 0:
                if wait_s > _WAIT_S:
                    break
                await asyncio.sleep(wait_s)
            await self._count(queue, target.model)
            if self._fits(queue, target, count):
                return
            was_full = queue.counted + count > target.max_queue
        metrics.refused("queue_full")
        raise _full(await self._registry.model(target.model), target)

    def _fits(self, queue: _Queue, target: Target, count: int) -> bool:
        submitter, model = self._submitter, target.model
        present = queue.counted + submitter.accepted[model] - queue.accepted + submitter.uncommitted[model]
        return present + count <= target.max_queue

    async def _count(self, queue: _Queue, model: str) -> None:
        await asyncio.shield(queue.task or self._begin(queue, model))

    def _begin(self, queue: _Queue, model: str) -> "asyncio.Task[None]":
        task = queue.task = asyncio.get_running_loop().create_task(self._counting(queue, model))
        task.add_done_callback(seen)
        return task

    async def _counting(self, queue: _Queue, model: str) -> None:
        began, accepted = time.monotonic(), self._submitter.accepted[model]
        view = await self._registry.model(model)
        at_most = view.widest.max_queue + 1
        try:
            queue.counted = await self._thread.run(lambda: self._depth(view, at_most))
            queue.began, queue.accepted = began, accepted
            queue.took = time.monotonic() - began
        finally:
            queue.task = None

    def _depth(self, view: ModelView, at_most: int) -> int:
        classes = self._tenants.classes()
        lines = [line for version in view.versions for line in broker.lines(view.name, version, classes)]
        return self._predictions.depth(lines, at_most)

    def close(self) -> None:
        self._thread.close()


def _full(view: ModelView, target: Target) -> Problem:
    rate = view.drain_rate
    seconds = min(_LONGEST_S, max(1, math.ceil(_ROOM * target.max_queue / rate))) if rate > 0 else _LONGEST_S
    return Problem(
        "queue_full",
        f"{target.max_queue} predictions wait for {target.model!r} already, or would with this.",
        headers=((b"retry-after", b"%d" % seconds),),
    )
