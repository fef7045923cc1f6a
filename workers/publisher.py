"""What a worker or the janitor tells Redis: notices of ended predictions, hints put back, and what models report.

In the order it was told, so that whoever sees the notice of an end finds every report before it. Best effort, on a
thread of its own behind a bounded queue: when Redis is away, what does not fit is dropped, and the janitor and the
sweeps of those who wait make up for it. Nothing that holds a prediction ever waits for Redis.
"""

import contextlib
import logging
import queue
import threading
from collections import defaultdict
from collections.abc import Iterable, Sequence

import msgspec
import redis

from headway import broker, failpoints, notices, reports
from headway.notices import Ended
from headway.reports import Report
from headway.types import Hint
from workers.watchdog import Life

log = logging.getLogger(__name__)

#: Ids an envelope of returned hints holds at most.
_ENVELOPE_IDS = 64

#: Bytes of reports that may wait for Redis; what comes then is dropped.
_MOST_REPORTS_BYTES = 64 * 1024 * 1024

Reports = dict[str, list[bytes]]  # prediction id → encoded reports
Command = tuple[str, str, bytes | list[bytes] | Reports]  # ("publish" | "rpush" | "report", key, payload)


class Publisher:
    """One connection, one thread."""

    def __init__(self, redis_url: str, *, capacity: int = 10_000) -> None:
        self._redis = redis.Redis.from_url(redis_url, socket_timeout=2, socket_connect_timeout=1)
        self._commands: queue.Queue[Command | None] = queue.Queue(capacity)
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self._away = False
        self.life = Life("who tells redis")
        self.life.rests()
        self._reports_lock = threading.Lock()
        self._reports_bytes = 0
        self._thread.start()

    def ended(self, ended: dict[str, Ended]) -> None:
        """One notice for all of them; outputs too large for a notice stay in SQL."""
        if not ended:
            return
        slim = {
            id_: body
            if body.output is None or len(body.output) <= notices.INLINE_OUTPUT_BYTES
            else msgspec.structs.replace(body, output=None, output_omitted=True)
            for id_, body in ended.items()
        }
        self._put(("publish", notices.CHANNEL, notices.encode(slim)))

    def requeue(self, hints: Iterable[tuple[str, int, Hint]]) -> None:
        """(line, priority, hint) of rows that are queued again: to the head of their lines, oldest foremost."""
        by_line: dict[str, list[tuple[int, Hint]]] = defaultdict(list)
        for line, priority, hint in hints:
            by_line[line].append((priority, hint))
        for line, members in by_line.items():
            members.sort(key=lambda member: (member[1].position, member[1].id))
            messages = [wire for _, wire in broker.envelopes(line, members, at_most=_ENVELOPE_IDS)]
            # The head of the list is its right end: whoever is pushed last comes out first.
            self._put(("rpush", line, messages[::-1]))

    def cancel(self, ids: Sequence[str]) -> None:
        """Tells every worker that these are to be let go of."""
        self._put(("publish", notices.CANCELS, notices.encode_ids(ids)))

    def reports(self, said: dict[str, list[Report]]) -> None:
        """Prediction id → what its model has just reported of it, in order. Dropped at once while Redis is away."""
        if self._away and not self._commands.empty():
            return  # nothing of this may crowd out hints and notices
        encoded = {id_: [reports.encode(report) for report in some] for id_, some in said.items()}
        size = _size(encoded)
        with self._reports_lock:
            fits = self._reports_bytes + size <= _MOST_REPORTS_BYTES
            self._reports_bytes += size if fits else 0
        if fits and not self._put(("report", reports.CHANNEL, encoded)):
            self._sent(size)

    def _sent(self, size: int) -> None:
        with self._reports_lock:
            self._reports_bytes -= size

    def close(self, timeout_s: float = 2.0) -> None:
        """Sends what is still queued, as far as that goes in time."""
        with contextlib.suppress(queue.Full):
            self._commands.put(None, timeout=timeout_s)
        self._thread.join(timeout_s)
        self._redis.close()

    def _put(self, command: Command) -> bool:
        try:
            self._commands.put_nowait(command)
        except queue.Full:
            log.debug("redis is too slow or away: a %s was dropped", command[0])
            return False
        return True

    def _run(self) -> None:
        while (command := self._commands.get()) is not None:
            with self.life.at_work():
                self._tell(*command)

    def _tell(self, verb: str, key: str, payload: bytes | list[bytes] | Reports) -> None:
        try:
            failpoints.hit("notify.begin", redis.ConnectionError)
            if isinstance(payload, dict):
                self._report(key, payload)
            elif isinstance(payload, list):
                self._redis.rpush(key, *payload)
            else:
                self._redis.publish(key, payload)
            failpoints.hit("notify.end", redis.ConnectionError)
        except redis.RedisError as error:
            if not self._away:
                log.warning("redis is away, %s dropped: %s", verb, error)
            self._away = True
        else:
            self._away = False

    def _report(self, channel: str, said: Reports) -> None:
        """Into their lists first, so that whoever hears of them finds them there."""
        self._sent(_size(said))
        pipeline = self._redis.pipeline(transaction=False)
        for id_, encoded in said.items():
            pipeline.rpush(reports.key(id_), *encoded)
            pipeline.expire(reports.key(id_), reports.KEPT_S)
        pipeline.publish(channel, notices.encode_ids(list(said)))
        pipeline.execute()


def _size(said: Reports) -> int:
    return sum(map(len, (one for encoded in said.values() for one in encoded)))
