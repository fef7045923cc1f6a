"""From Celery messages to windows.

A line is a Celery queue, a message an envelope of hints. Celery keeps the connection, reconnects, answers `inspect` and
tells Flower; what it would do with a task we do ourselves: a Strategy puts the hints into their window and
acknowledges. What Redis hands out is bounded by the windows: a line whose window is full is left out of the next fetch.

Envelopes are acknowledged at once: SQL is the truth, so there is nothing in Redis worth holding on to, and a channel
that closes then has nothing to put back that is still in a window.
"""

import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import redis
from celery import Celery, Task
from celery.events import Event
from celery.utils.time import utcoffset
from kombu import Exchange, Queue

from headway import broker
from headway.clock import new_id
from headway.notices import Ended
from headway.states import Status
from workers.channel import SturdyConnection
from workers.publisher import Publisher
from workers.watchdog import Life, Sign
from workers.window import Window

log = logging.getLogger(__name__)

AnyTask = Any  # Celery's Task, generic for type checkers only

_BELL_TASK = "headway.bell"
#: Every so many fetches the line that has waited longest goes first, so that no priority step starves another.
_FAIR_EVERY = 10
#: Of an envelope's ids in the average of its line.
_WEIGHT = 0.2
#: What Flower is told is bounded: this often, and this many envelopes each time, the latest ones.
_TELL_EVERY_S = 1.0
_MOST_EVENTS = 200
#: A line is looked at for hints that are passed by once its window has heard of nothing for so long.
_QUIET_S = 5.0


@dataclass(slots=True)
class Ticket:
    """An envelope until its last id is done; then Flower hears of it."""

    id: str
    line: str
    total: int
    left: int
    received: float  # wall clock, seconds, as Celery's events want it
    succeeded: int = 0
    failed: int = 0
    done: float = 0.0


class Intake:
    """The Celery side of a worker."""

    def __init__(self, classes: Mapping[int, float], redis_url: str, publisher: Publisher) -> None:
        """`classes`: those of tenants that are known already, with their weights."""
        self.classes = classes
        self._served: dict[tuple[str, str], Window] = {}  # by version; closed ones stay, and hand back what still comes
        self._windows: dict[str, Window] = {}  # by line, for every class
        self._serving = threading.Lock()  # of the two
        self._publisher = publisher
        self._redis_url = redis_url
        self._tickets: dict[str, Ticket] = {}  # by prediction id
        self._done: deque[Ticket] = deque(maxlen=_MOST_EVENTS)
        self._tickets_lock = threading.Lock()  # of the tickets and of who is done
        self._telling: Any = None  # the timer of `_tell`, on the present connection
        self._consumer: Any = None  # Celery's, anew after each reconnect
        self._bell = _Bell(redis_url)
        self._heard = Life("the intake, which does not hear its own bell in redis,")
        self._passed_by: dict[str, tuple[bytes, float]] = {}  # line → its oldest envelope, and since when it lies there
        self._order = LineOrder(self._accepts, self._room)
        self._order.weights = classes
        self._bulk: set[str] = set()  # the lines of batches
        self._fetched: set[str] = set()  # lines that Celery knows of

    def serve(self, window: Window) -> None:
        """Fetches for it from now on, and no more for the one that the version had before. From any thread."""
        window.on_room = self._on_room
        with self._serving:
            self._served[window.model, window.version] = window
            self._add(self._lines_of(self.classes))
        consumer = self._consumer
        if consumer is not None and consumer.hub is not None:
            consumer.hub.call_soon(self._widen, consumer, self.classes, True)

    def celery_app(self) -> Celery:
        """An app that consumes our lines, and the doorbell."""
        app = Celery("headway", set_as_current=False)
        app.conf.update(broker.celery_config(self._redis_url))
        app.conf.broker_transport_options = {
            **app.conf.broker_transport_options,
            "queue_order_strategy": self._order,
        }
        self._fetched.update(self._windows)
        app.conf.task_queues = [_queue(name) for name in [self._bell.key, *self._fetched]]
        app.conf.task_default_queue = self._bell.key
        app.conf.worker_prefetch_multiplier = 0  # no limit: the windows are the limit
        app.amqp.Connection = SturdyConnection
        app.register_task(_task(broker.TASK, self._strategy))
        app.register_task(_task(_BELL_TASK, self._hear))
        return app

    def learn(self, classes: Mapping[int, float]) -> None:
        """The classes of tenants that there are now, with their weights: lines of new ones are fetched from. From any
        thread, again and again; what comes while there is no connection is done at the next call."""
        consumer = self._consumer
        if consumer is None or consumer.hub is None:
            return
        if classes != self._order.weights or not self._fetched.issuperset(self._windows):
            consumer.hub.call_soon(self._widen, consumer, classes)

    def ended(self, ended: dict[str, Ended], ids: Sequence[str]) -> None:
        """These have left the worker, terminal (`ended`) or handed back. From any thread."""
        now = time.time()
        with self._tickets_lock:
            for id_ in ids:
                ticket = self._tickets.pop(id_, None)
                if ticket is None:
                    continue
                ticket.left -= 1
                if id_ in ended:
                    if ended[id_].status is Status.SUCCEEDED:
                        ticket.succeeded += 1
                    else:
                        ticket.failed += 1
                if ticket.left == 0:
                    ticket.done = now
                    self._done.append(ticket)

    def close(self) -> None:
        self._consumer = None
        self._bell.close()

    # ── on the thread of who watches ──────────────────────────────────────────────────────────────────────────

    def knock(self) -> None:
        """Rings the bell, which is heard where everything is well from Redis to here; and looks for hints that lie
        there though there is room for them. Raises redis.RedisError."""
        self._bell.ring_or_raise()
        now = time.monotonic()
        quiet = [
            line
            for line, window in self._windows.items()
            if window.accepts(bulk=line in self._bulk) and now - window.received_at >= _QUIET_S
        ]
        oldest = self._bell.oldest(quiet)
        self._passed_by = {
            line: self._passed_by[line] if self._passed_by.get(line, (b"", 0.0))[0] == envelope else (envelope, now)
            for line, envelope in oldest.items()
        }

    def signs(self) -> list[Sign]:
        """Since when the bell was not heard, and since when a line is passed by. As of the last `knock`."""
        passed_by = [
            Sign(f"the intake, which leaves hints in {line},", since) for line, (_, since) in self._passed_by.items()
        ]
        return self._heard.sign() + passed_by

    # ── on the thread of Celery's event loop ──────────────────────────────────────────────────────────────────

    def _hear(self, task: AnyTask, app: Celery, consumer: Any) -> Callable[..., None]:
        def hear(message: Any, *args: Any, **kwargs: Any) -> None:
            self._heard.goes_on()
            message.ack()

        return hear

    def _strategy(self, task: AnyTask, app: Celery, consumer: Any) -> Callable[..., None]:
        self._consumer = consumer
        if self._telling is not None:
            self._telling.cancel()
        self._telling = consumer.hub.call_repeatedly(_TELL_EVERY_S, self._tell, consumer)
        consumer.hub.call_soon(self._widen, consumer, self.classes)  # what came while there was no connection

        def receive(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any, **kwargs: Any) -> None:
            # A KeyError that leaves here reads as a lost connection to kombu: nothing may leave here.
            try:
                self._receive(message.body, str(message.headers.get("id", "")))
            except msgspec.DecodeError as error:
                log.warning("a message that is no envelope was dropped: %s", error)
            except Exception:
                log.exception("an envelope was dropped")
            finally:
                message.ack()

        return receive

    def _receive(self, body: bytes | str, id_: str) -> None:
        envelope = broker.decode_body(body)
        window = self._windows.get(envelope.line)
        if window is None:
            log.warning("hints for a line not served here were dropped: %s", envelope.line[:200])
            return
        window.received_at = time.monotonic()
        if not window.open:  # stopping or unloaded: these came in with the last answer of a fetch
            self._publisher.requeue((envelope.line, priority, hint) for priority, hint in envelope.hints())
            return
        with self._tickets_lock:  # before the first of them can end
            new = window.offer(
                envelope.hints(), coming=envelope.coming, tenant_class=broker.parse_line(envelope.line).tenant_class
            )
            ticket = Ticket(id_ or new_id(), envelope.line, len(new), len(new), time.time())
            self._tickets.update(dict.fromkeys(new, ticket))
        self._order.served(envelope.line, len(new))

    def _accepts(self, line: str) -> bool:
        window = self._windows.get(line)
        return line == self._bell.key if window is None else window.accepts(bulk=line in self._bulk)

    def _room(self, line: str) -> int:
        window = self._windows.get(line)
        return 0 if window is None else window.room(bulk=line in self._bulk)

    def _lines_of(self, classes: Iterable[int]) -> dict[str, Window]:
        classes = list(classes)
        return {
            line: window
            for window in self._served.values()
            for line in broker.all_lines(window.model, window.version, classes)
        }

    def _add(self, lines: Mapping[str, Window]) -> None:
        self._bulk.update(line for line in lines if broker.is_bulk(line))
        self._windows = {**self._windows, **lines}  # others read it meanwhile

    def _widen(self, consumer: Any, classes: Mapping[int, float], ring: bool = False) -> None:
        """Fetches from the lines of new versions and classes too; Celery keeps them over a reconnect."""
        if consumer is not self._consumer or consumer.task_consumer is None:
            return  # the connection is gone: the next one, or the next beat, asks for it again
        with self._serving:
            self._add(self._lines_of(classes))
            new = [line for line in self._windows if line not in self._fetched]
        for line in new:
            consumer.app.amqp.queues.add(_queue(line))
            consumer.add_task_queue(line)
        self._fetched.update(new)
        self._order.weights = self.classes = classes
        if new or ring:
            self._bell.ring()  # a fetch under way does not ask them

    def _on_room(self) -> None:
        """A full window has room again, or is not paused any more. From any thread."""
        consumer = self._consumer
        if consumer is not None and consumer.hub is not None:
            consumer.hub.call_soon(self._resume, consumer)

    def _resume(self, consumer: Any) -> None:
        """The next turn of the loop fetches again; a fetch under way that leaves this line out is ended by the bell."""
        channel = getattr(consumer.task_consumer, "channel", None)
        if channel is not None and channel._in_poll is not None and self._order.left_out:
            self._bell.ring()

    def _tell(self, consumer: Any) -> None:
        """Once a second: one event for each envelope that is done, all of them in one message."""
        with self._tickets_lock:
            done, self._done = self._done, deque(maxlen=_MOST_EVENTS)
        dispatcher = consumer.event_dispatcher
        if done and dispatcher is not None and dispatcher.enabled:
            events = [_event(ticket, dispatcher.hostname) for ticket in done]
            with dispatcher.mutex:
                dispatcher._publish(events, dispatcher.producer, "task.multi")


def _event(ticket: Ticket, hostname: str) -> dict[str, Any]:
    """All that Flower shows of a task, in the one event that ends it. Failed is a hint of which nothing succeeded."""
    model, version, *_ = broker.parse_line(ticket.line)
    summary = f"{ticket.succeeded} ok, {ticket.failed} failed"
    failed = ticket.failed > 0 and ticket.succeeded == 0
    return {
        **Event(
            "task-failed" if failed else "task-succeeded",
            hostname=hostname,
            utcoffset=utcoffset(),
            pid=os.getpid(),
            timestamp=ticket.done,
        ),
        "uuid": ticket.id,
        "name": broker.TASK,
        "args": f"('{model}@{version} ×{ticket.total}',)",
        "kwargs": "{}",
        "received": ticket.received,
        "started": ticket.received,
        "runtime": ticket.done - ticket.received,
        "exception" if failed else "result": summary,
        "retries": 0,
        "root_id": ticket.id,
        "queue": ticket.line,
    }


@dataclass(slots=True)
class _Queue:
    """The lines of one model version and step, of which each class of tenants has one."""

    step: int
    fetched: int = 0  # when an envelope last came from it
    clock: float = 0.0  # virtual: where the line that was served last began


@dataclass(slots=True)
class _Line:
    name: str
    queue: _Queue
    tenant_class: int
    fetched: int = 0
    end: float = 0.0  # virtual: ids served, divided by the weight
    ids: float = 32.0  # in an envelope, moving average
    long: bool = False  # it was not empty when it was last asked
    left: bool = False  # and was passed over since, for a window that was full

    @property
    def start(self) -> float:
        """A line that was empty for a while begins where the others are, and saves nothing up."""
        return max(self.end, self.queue.clock)


class LineOrder:
    """Which lines the next fetch asks, and in which order: kombu's queue cycle.

    Most urgent step first, and model versions in turn within a step; every tenth time whatever step of a version waited
    longest. Among the classes of tenants the one that has had least for its weight (start-time fair queueing).
    Full windows are left out; what had to be left out is then asked for as many envelopes as fit.
    """

    def __init__(self, accepts: Callable[[str], bool], room: Callable[[str], int] = lambda line: 0) -> None:
        """`accepts(line)`: whether its window wants more; `room(line)`: how many ids."""
        self._accepts = accepts
        self._room = room
        self._lines: dict[str, _Line] = {}  # all there ever were: a new channel begins without any
        self._present: list[_Line] = []
        self._queues: dict[tuple[str, str, int], _Queue] = {}
        self._fetches = 0
        self._fair_at = 0  # the fetch that was last the turn of who waited longest
        self._fair = False  # whether the present one is
        self._asked: list[_Line] = []  # in the last fetch
        self._came = 0  # envelopes that it brought
        self.weights: Mapping[int, float] = {}  # of the classes
        self.left_out = False  # whether the last fetch passed a line over
        self.most = 1  # envelopes that the last fetch may bring, of one line

    def __call__(self) -> "LineOrder":
        """Where kombu would make one of its own for each channel."""
        return self

    def __json__(self) -> str:
        """`inspect stats`, which Flower asks for, answers with all transport options."""
        return type(self).__name__

    def update(self, names: Iterable[str]) -> None:
        self._present = [self._line(name) for name in names]

    def consume(self, count: int) -> list[str]:
        asked = []
        for line in self._present:
            if self._accepts(line.name):
                asked.append(line)
            else:
                line.left = line.long
        self.left_out = len(asked) < len(self._present)
        self._fair = self._fetches + 1 - self._fair_at >= _FAIR_EVERY
        if self._fair:
            asked.sort(key=lambda line: (line.queue.step >= 0, line.queue.fetched, line.start, line.fetched))
        else:
            asked.sort(key=lambda line: (line.queue.step, line.queue.fetched, line.start, line.fetched))
        self._asked, self._came = asked, 0
        self.most = self._most()
        return [line.name for line in asked]

    def _most(self) -> int:
        """One by one, but from a line that was long and had to be left for a full window: else others may be idle whom
        the next envelope would serve better. Never past the turn of who waited longest. Classes share the room."""
        line = next((line for line in self._asked if line.left), None)
        if line is None or self._fair:
            return 1
        fitting = math.ceil(self._room(line.name) / line.ids / max(1, len(self.weights)))
        return max(1, min(fitting, _FAIR_EVERY - 1 - (self._fetches - self._fair_at)))

    @property
    def idle(self) -> bool:
        """Whether the last fetch asks no line at all: nobody wants more."""
        return all(line.queue.step < 0 for line in self._asked)

    def rotate(self, last_used: str) -> str:
        """Called for each envelope."""
        line = self._line(last_used)
        if line.queue.step < 0:
            return last_used
        for other in self._asked:
            if other is line:
                break
            other.long = other.left = False  # asked before this one, and empty
        self._came += 1
        line.long = True
        line.left = self._came == self.most > 1 or (line.left and self._fair)
        # Envelopes are counted, not questions: while windows are full many of those ask the doorbell alone, and that
        # may well be every second one.
        self._fetches += 1
        if self._fair:
            self._fair_at = self._fetches
        line.fetched = line.queue.fetched = self._fetches
        line.queue.clock = line.start
        return last_used

    def served(self, name: str, count: int) -> None:
        """So many ids came with the envelope that was fetched last."""
        line = self._line(name)
        line.end = line.start + count / self.weights.get(line.tenant_class, 1.0)
        line.ids += (count - line.ids) * _WEIGHT

    def _line(self, name: str) -> _Line:
        line = self._lines.get(name)
        if line is None:
            line = self._lines[name] = self._new(name)
        return line

    def _new(self, name: str) -> _Line:
        if not name.startswith(broker.PREFIX):
            return _Line(name, _Queue(-1), 0)  # the doorbell, before everything
        model, version, step, tenant_class = broker.parse_line(name)
        return _Line(name, self._queues.setdefault((model, version, step), _Queue(step)), tenant_class)


class _Bell:
    """A list of this worker's own that is always fetched from: a message in it ends a fetch under way."""

    def __init__(self, redis_url: str) -> None:
        self.key = f"headway.bell.{new_id()}"
        self._redis = redis.Redis.from_url(redis_url, socket_timeout=1, socket_connect_timeout=1)
        self._message = broker.message(_BELL_TASK, self.key, [])

    def ring(self) -> None:
        try:
            self.ring_or_raise()
        except redis.RedisError as error:
            log.debug("the bell did not ring: %s", error)  # the fetch under way ends by itself within a second

    def ring_or_raise(self) -> None:
        """Raises redis.RedisError."""
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.lpush(self.key, self._message)
            pipe.expire(self.key, 60)
            pipe.execute()

    def oldest(self, lines: Sequence[str]) -> dict[str, bytes]:
        """The envelope that is fetched next, of lines that have one. Raises redis.RedisError."""
        if not lines:
            return {}
        with self._redis.pipeline(transaction=False) as pipe:
            for line in lines:
                pipe.lindex(line, -1)
            found = pipe.execute(raise_on_error=False)
        return {line: one for line, one in zip(lines, found, strict=True) if isinstance(one, bytes)}

    def close(self) -> None:
        self._redis.close()


def _queue(line: str) -> Queue:
    return Queue(line, Exchange("", type="direct"), routing_key=line, no_declare=True)


def _task(name: str, strategy: Callable[..., Callable[..., None]]) -> AnyTask:
    def run(self: AnyTask, *args: Any) -> None:
        raise RuntimeError(f"{name} is taken by its Strategy and never run as a task")

    kind: type[AnyTask] = type("Hint", (Task,), {"name": name, "run": run, "Strategy": staticmethod(strategy)})
    return kind()
