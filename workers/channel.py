"""Celery's connection to Redis, which soon comes back, which what is no message does not end, and which brings several
envelopes at once.

Whatever lies in a line was popped when kombu finds that it cannot be read. What it then raises would end Celery's loop,
and with it the worker: anybody who can write to Redis could take one down with every few bytes.

Where a line is so long that the window had to leave it, its envelopes are asked for as many at once as there is room
for: to send, to wait and to read costs the worker more than to take one in.
"""

import logging
from queue import Empty
from time import monotonic
from typing import Any

import msgspec
import redis
from kombu import Connection
from kombu.transport.redis import Channel, Transport

log = logging.getLogger(__name__)


class _Channel(Channel):
    _queue_cycle: Any  # these three the stubs leave out
    connection_errors: Any
    _flush_brpop_reauth: Any

    #: BLMPOP is of Redis 7; who has an older one, or may not use it, gets one envelope at a time.
    _several = True
    _rests = False  # no window has room, and nothing is asked

    def _brpop_start(self, timeout: float | None = None) -> None:
        queues = self._queue_cycle.consume(len(self.active_queues))
        self._rests = self._queue_cycle.idle and not self._rests
        if not queues or self._rests:
            return  # until a window has room, or a timer turns the loop: then the doorbell alone is asked
        timeout = self.brpop_timeout if timeout is None else timeout
        self._in_poll = connection = self.client.connection
        self._brpop_sent_at = monotonic()
        if self._several:
            most = self._queue_cycle.most
            connection.send_command("BLMPOP", timeout, len(queues), *queues, "RIGHT", "COUNT", most)
        else:
            connection.send_command("BRPOP", *queues, timeout)

    def _brpop_read(self, **options: Any) -> Any:
        connection = self.client.connection
        try:
            try:
                answer = self.client.parse_response(connection, "BLMPOP", **options)
            except self.connection_errors:
                connection.disconnect()  # the next turn of the loop connects again
                raise
            except redis.ResponseError as error:
                if not self._several or not _is_unknown(error):
                    raise
                log.info("redis gives one envelope at a time: %s", error)
                _Channel._several = False
                return True
            if not answer:
                raise Empty
            queue, messages = answer
            for message in messages if isinstance(messages, list) else [messages]:
                self._take_in(queue.decode(), message)
            return True
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()

    def _take_in(self, queue: str, message: bytes) -> None:
        self._queue_cycle.rotate(queue)
        try:
            self.connection._deliver(msgspec.json.decode(message), queue)
        except (redis.RedisError, OSError, Empty):
            raise  # the connection's, which kombu knows about
        except Exception as error:
            log.warning("what is no message was dropped: %s", repr(error)[:200])


def _is_unknown(error: redis.ResponseError) -> bool:
    return isinstance(error, redis.exceptions.NoPermissionError) or "unknown command" in str(error).lower()


class _Loop:
    """Celery's, to which kombu adds each of its sockets at every turn."""

    def __init__(self, hub: Any) -> None:
        self._hub = hub

    def __getattr__(self, name: str) -> Any:
        return getattr(self._hub, name)

    def add_reader(self, fd: int, callback: Any, *args: Any) -> None:
        if fd not in self._hub.readers:  # kombu registers a new socket itself, and takes one out that is closed
            self._hub.add_reader(fd, callback, *args)


class _Transport(Transport):
    Channel = _Channel

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        super().register_with_event_loop(connection, _Loop(loop))


class SturdyConnection(Connection):
    """To Redis."""

    def get_transport_cls(self) -> Any:
        return _Transport

    def ensure_connection(self, *args: Any, **kwargs: Any) -> Any:
        """The library's own pauses grow to half a minute."""
        pauses = {"interval_start": 0.5, "interval_step": 0.5, "interval_max": 3}
        return super().ensure_connection(*args, **{**kwargs, **pauses})
