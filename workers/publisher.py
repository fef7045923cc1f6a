"""What a worker or the janitor tells Redis: notices of ended predictions, and hints put back.

Best effort, on a thread of its own behind a bounded queue: when Redis is away, what does not fit is dropped, and the
janitor and the sweeps of those who wait make up for it. Nothing that holds a prediction ever waits for Redis.
"""

import contextlib
import logging
import queue
import threading
from collections import defaultdict
from collections.abc import Iterable

import msgspec
import redis

from headway import broker, notices
from headway.notices import Ended
from headway.types import Hint

log = logging.getLogger(__name__)

#: Ids an envelope of returned hints holds at most.
_ENVELOPE_IDS = 64

Command = tuple[str, str, bytes | list[bytes]]  # ("publish" | "rpush", key, payload)


class Publisher:
    """One connection, one thread."""

    def __init__(self, redis_url: str, *, capacity: int = 10_000) -> None:
        self._redis = redis.Redis.from_url(redis_url, socket_timeout=2, socket_connect_timeout=1)
        self._commands: queue.Queue[Command | None] = queue.Queue(capacity)
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self._away = False
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

    def close(self, timeout_s: float = 2.0) -> None:
        """Sends what is still queued, as far as that goes in time."""
        with contextlib.suppress(queue.Full):
            self._commands.put(None, timeout=timeout_s)
        self._thread.join(timeout_s)
        self._redis.close()

    def _put(self, command: Command) -> None:
        try:
            self._commands.put_nowait(command)
        except queue.Full:
            log.debug("redis is too slow or away: a %s was dropped", command[0])

    def _run(self) -> None:
        while (command := self._commands.get()) is not None:
            verb, key, payload = command
            try:
                if isinstance(payload, list):
                    self._redis.rpush(key, *payload)
                else:
                    self._redis.publish(key, payload)
            except redis.RedisError as error:
                if not self._away:
                    log.warning("redis is away, %s dropped: %s", verb, error)
                self._away = True
            else:
                self._away = False
