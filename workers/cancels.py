"""Cancels of what this worker runs: heard over Redis, and asked of SQL in case they were not.

A message names predictions; SQL says under which claim each is being canceled, if it still is. Only then is anything
let go of: a message may be late, and its prediction retried meanwhile.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.client import PubSub
from redis.retry import Retry

from headway import notices
from headway.errors import StorageUnavailable
from storage.predictions import Predictions
from workers.claims import Claims

log = logging.getLogger(__name__)

_LOOK_S = 0.5  # how late a stop is noticed
_AGAIN_S = 1.0


class Cancels:
    """One thread and connection, made anew whenever Redis goes away."""

    def __init__(
        self,
        redis_url: str,
        *,
        predictions: Predictions,
        claims: Claims,
        cancel: Callable[[Mapping[str, str]], None],
    ) -> None:
        """`cancel(canceling)`: prediction id → claim, noted in `claims` before."""
        self._redis = redis.Redis.from_url(
            redis_url, socket_timeout=5, socket_connect_timeout=1, retry=Retry(NoBackoff(), 0)
        )
        self._predictions = predictions
        self._claims = claims
        self._cancel = cancel
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cancels", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stopping.set()
        self._thread.join(5.0)
        self._redis.close()

    def look(self, ids: Sequence[str] | None = None) -> None:
        """Lets go of those of `ids`, or of all this worker runs, that are being canceled. Raises StorageUnavailable."""
        held = self._claims.held(ids)
        canceling = self._predictions.canceling(held) if held else {}
        if canceling:
            self._claims.cancel(canceling)
            self._cancel(canceling)

    def _run(self) -> None:
        away = False
        while not self._stopping.is_set():
            try:
                with self._redis.pubsub() as channel:  # type: ignore[no-untyped-call]
                    channel.subscribe(notices.CANCELS)
                    self._listen(channel)
            except (redis.RedisError, OSError) as error:
                if not away:
                    log.warning("redis is away, cancels are asked of sql: %s", error)
                away = True
                self._stopping.wait(_AGAIN_S)
            else:
                away = False

    def _listen(self, channel: PubSub) -> None:
        while not self._stopping.is_set():
            message = channel.get_message(timeout=_LOOK_S)
            ids: list[str] = []
            missed = False
            while message is not None:  # what has gathered is asked of SQL at once
                missed |= message["type"] == "subscribe"
                if message["type"] == "message":
                    ids += _ids(message["data"])
                message = channel.get_message(timeout=0)
            try:
                if missed:
                    self.look()
                elif ids:
                    self.look(ids)
            except StorageUnavailable as error:
                log.warning("sql is away, a cancel waits: %s", error)


def _ids(payload: bytes) -> list[str]:
    try:
        return notices.decode_ids(payload)
    except msgspec.DecodeError:
        log.warning("a message that is no list of ids was dropped")
        return []
