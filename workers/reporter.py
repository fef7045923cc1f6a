"""What a model says of the items it works on, from its threads to the worker. Lives in the device process.

The rule: nothing that a model says in a call arrives after the call's reply. Whoever says something leaves it here and
goes on; one thread, started by the first who does, sends what has gathered. Of progress only the latest counts, so it
is thinned out; partial outputs are all sent, and who makes them faster than the worker takes them is held up.
"""

import logging
import math
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import msgspec

from batching import outcomes
from headway import envelopes, reports, responses
from headway.model import Item
from headway.types import Outcome
from workers import frames

logger = logging.getLogger(__name__)

#: Between two frames. Many items that say a word at a time make a frame together.
_FRAME_S = 0.01
#: Between two progress reports of one item.
_PROGRESS_S = 0.05
#: Bytes that wait to be sent; beyond that the model's thread waits, too.
_MOST_WAITING = 1024 * 1024


class Reporter:
    """One for the process, around its end of the pipe."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.Lock()  # held from taking what was said to having sent it, so order is kept
        self._changed = threading.Condition()  # guards what follows, and the calls
        self._call_id = 0
        self._said: list[tuple[str, frames.Saying, bytes]] = []
        self._bytes = 0
        self._latest: dict[str, bytes] = {}  # progress that is held back
        self._next: dict[str, float] = {}  # when an item's progress may be sent again (monotonic)
        self._gone = False  # the worker
        self._thread: threading.Thread | None = None

    def reply(self, reply: frames.Reply) -> None:
        """After everything that was said in the call. Raises OSError when the worker has gone."""
        with self._sending:
            if self._thread is not None and (said := self._last_words()) is not None:
                self._connection.send_bytes(frames.encode(said))
            self._connection.send_bytes(frames.encode(reply))

    def _last_words(self) -> frames.Said | None:
        with self._changed:
            self._release(math.inf)
            self._next.clear()
            return self._take()

    # ── under the condition, by the listeners of a call ───────────────────────────────────────────────────────

    @property
    def changed(self) -> threading.Condition:
        return self._changed

    def say(self, call_id: int, id_: str, what: frames.Saying, json: bytes) -> None:
        """Next in order, after a progress of this item that was held back."""
        self._call_id = call_id
        if id_ in self._latest:
            self._put(id_, "progress", self._latest.pop(id_))
        self._put(id_, what, json)
        self._changed.notify_all()

    def say_latest(self, call_id: int, id_: str, json: bytes) -> None:
        """A progress: at once, or when its time has come, unless another has replaced it by then."""
        self._call_id = call_id
        now = time.monotonic()
        if now >= self._next.get(id_, 0.0):
            self._latest.pop(id_, None)
            self._next[id_] = now + _PROGRESS_S
            self._put(id_, "progress", json)
            self._changed.notify_all()
        elif id_ in self._latest:
            self._latest[id_] = json
        else:
            self._latest[id_] = json
            self._changed.notify_all()

    def wait_for_room(self) -> None:
        self._changed.wait_for(lambda: self._gone or self._bytes <= _MOST_WAITING)

    def _put(self, id_: str, what: frames.Saying, json: bytes) -> None:
        if self._gone:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)
            self._thread.start()
        self._said.append((id_, what, json))
        self._bytes += len(json)

    def _release(self, now: float) -> None:
        """Progress whose time has come."""
        for id_ in [id_ for id_ in self._latest if self._next[id_] <= now]:
            self._put(id_, "progress", self._latest.pop(id_))
            self._next[id_] = now + _PROGRESS_S

    def _take(self) -> frames.Said | None:
        if not self._said:
            return None
        said, self._said, self._bytes = frames.Said(self._call_id, self._said), [], 0
        self._changed.notify_all()
        return said

    # ── the thread ────────────────────────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        while not self._gone:
            with self._changed:
                self._await_something()
            with self._sending:
                with self._changed:
                    self._release(time.monotonic())
                    said = self._take()
                if said is not None:
                    self._send(said)
            time.sleep(_FRAME_S)

    def _await_something(self) -> None:
        while not self._said:
            if not self._latest:
                self._changed.wait()
                continue
            left = min(self._next[id_] for id_ in self._latest) - time.monotonic()
            if left <= 0:
                return
            self._changed.wait(left)

    def _send(self, said: frames.Said) -> None:
        try:
            self._connection.send_bytes(frames.encode(said))
        except OSError:  # the worker has gone; the main thread learns of it by itself
            with self._changed:
                self._gone = True
                self._said.clear()
                self._changed.notify_all()


class Hearing:
    """One call: which of its items are canceled, and what was said of them so far."""

    def __init__(self, call: frames.Call, reporter: Reporter) -> None:
        self.call_id = call.call_id
        self.items = call.items
        self.types = call.types
        self.ahead: list[tuple[str, Any]] = []  # the first items, decoded while the call waited
        self.taken = False  # it waits no longer
        self.canceled: set[str] = set()  # the receiving thread adds
        self.heeded: set[str] = set()  # of those, the ones of which the model was told
        self.reporter = reporter
        self._emitted: dict[str, _Emitted] = {}

    def is_canceled(self, id_: str) -> bool:
        return id_ in self.canceled

    def heard(self, settled: Sequence[Outcome]) -> list[Outcome]:
        """The outcomes; of what the model was told is canceled no answer counts."""
        if not self.heeded:
            return list(settled)
        return [Outcome(id=one.id, canceled=True) if one.id in self.heeded else one for one in settled]

    def take(self, id_: str, at: int, json: bytes) -> bool:
        """Whether a partial output, the item's number `at` in this part, is to be passed on. Under the condition.

        It is not if an earlier run of the item, in a larger part of the call, has emitted just this at this place, nor
        if the item has emitted too much already.
        """
        emitted = self._emitted.setdefault(id_, _Emitted())
        told = hash(json)
        if at < len(emitted.hashes) and emitted.hashes[at] == told:
            return False
        del emitted.hashes[at:]
        if emitted.full or emitted.count >= reports.MOST or emitted.bytes + len(json) > reports.MOST_BYTES:
            if not emitted.full:
                logger.warning("prediction %s emits too much: nothing more of it is passed on", id_)
            emitted.full = True
            return False
        emitted.hashes.append(told)
        emitted.count += 1
        emitted.bytes += len(json)
        return True


@dataclass(slots=True)
class _Emitted:
    """What an item has emitted in a call."""

    hashes: list[int] = field(default_factory=list)  # in order, those of the last run
    count: int = 0
    bytes: int = 0
    full: bool = False


class Part:
    """The listener of the items of one call of `predict`."""

    def __init__(self, hearing: Hearing) -> None:
        self._hearing = hearing
        self._reporter = hearing.reporter
        self._over = False
        self._emitted: dict[str, int] = defaultdict(int)

    def items(self, ids: Sequence[str]) -> list[Item]:
        types = self._hearing.types
        return [Item(id_, self, types.get(id_)) for id_ in ids]

    def close(self) -> None:
        """What threads of the model say from now on is not heard: the call it is about is over."""
        self._over = True

    def canceled(self, id_: str) -> bool:
        hearing = self._hearing
        if id_ not in hearing.canceled:
            return False
        if id_ not in hearing.heeded:
            with self._reporter.changed:
                if not self._over and id_ not in hearing.heeded:
                    hearing.heeded.add(id_)
                    self._reporter.say(hearing.call_id, id_, "canceled", b"")
        return True

    def progress(self, id_: str, fraction: float, message: str | None) -> None:
        words = None if message is None else outcomes.storable(message)
        json = msgspec.json.encode({"fraction": fraction, "message": words})
        with self._reporter.changed:
            if not self._over:
                self._reporter.say_latest(self._hearing.call_id, id_, json)

    def emit(self, id_: str, partial: object) -> None:
        what: frames.Saying = "output"
        if isinstance(partial, outcomes.Raw) and partial.type == envelopes.RESPONSE:
            what, json = "message", partial.body
        elif isinstance(partial, outcomes.Raw) and partial.type == responses.MEDIA_TYPE:
            what, json = "response", partial.body
        else:
            json = outcomes.encode(partial)
        if len(json) > reports.MOST_PARTIAL_BYTES:
            limit = reports.MOST_PARTIAL_BYTES
            raise ValueError(f"the partial output is {len(json):,} bytes of JSON, and may have {limit:,} at most")
        with self._reporter.changed:
            self._reporter.wait_for_room()
            at = self._emitted[id_]
            self._emitted[id_] = at + 1
            if not self._over and self._hearing.take(id_, at, json):
                self._reporter.say(self._hearing.call_id, id_, what, json)
