"""Celery's connection to Redis, which soon comes back, and which what is no message does not end.

Whatever lies in a line was popped when kombu finds that it cannot be read. What it then raises would end Celery's loop,
and with it the worker: anybody who can write to Redis could take one down with every few bytes.
"""

import logging
from queue import Empty
from typing import Any

import redis
from kombu import Connection
from kombu.transport.redis import Channel, Transport

log = logging.getLogger(__name__)


class _Channel(Channel):
    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[misc]  # stubs leave it out
        except (redis.RedisError, OSError, Empty):
            raise  # the connection's, which kombu knows about
        except Exception as error:
            log.warning("what is no message was dropped: %s", repr(error)[:200])
            return True


class _Transport(Transport):
    Channel = _Channel


class SturdyConnection(Connection):
    """To Redis."""

    def get_transport_cls(self) -> Any:
        return _Transport

    def ensure_connection(self, *args: Any, **kwargs: Any) -> Any:
        """The library's own pauses grow to half a minute."""
        pauses = {"interval_start": 0.5, "interval_step": 0.5, "interval_max": 3}
        return super().ensure_connection(*args, **{**kwargs, **pauses})
