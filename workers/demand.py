"""Who waits for versions that are not loaded: their hints stay in Redis, and their rows in SQL."""

import contextlib
import time
from collections.abc import Hashable, Mapping, Sequence

import redis

from headway import broker
from headway.errors import StorageUnavailable
from storage.predictions import Predictions

#: How often SQL is asked beside Redis, and how old a row must be for it: younger ones have a hint. Seconds.
_ASK_SQL_S = 2.0
_AGE_S = 1.0


class Demand:
    """Asked by one thread."""

    def __init__(self, client: "redis.Redis", predictions: Predictions) -> None:
        self._redis = client
        self._predictions = predictions
        self._asked_at = -1e9
        self._in_sql: dict[str, int] = {}  # line → a position, as it was when SQL was asked

    def oldest(self, lines: Mapping[str, Hashable]) -> dict[Hashable, int]:
        """`lines`: to whom each belongs. The position (µs, database clock) of the oldest that waits for each."""
        # Who has been loaded meanwhile, and is not any more, does not wait because of what was so before.
        self._in_sql = {line: at for line, at in self._in_sql.items() if line in lines}
        heads = self._heads(list(lines))
        now = time.monotonic()
        if now - self._asked_at >= _ASK_SQL_S:
            self._asked_at = now
            with contextlib.suppress(StorageUnavailable):
                self._in_sql = self._of_sql(lines)
        oldest: dict[Hashable, int] = {}
        for line, whose in lines.items():
            found = [at for at in (heads.get(line), self._in_sql.get(line)) if at is not None]
            if found:
                oldest[whose] = min(*found, oldest.get(whose, found[0]))
        return oldest

    def _heads(self, lines: Sequence[str]) -> dict[str, int]:
        """The position of the oldest hint of each line that has one in Redis."""
        if not lines:
            return {}
        try:
            with self._redis.pipeline(transaction=False) as pipeline:
                for line in lines:
                    pipeline.lindex(line, -1)
                heads = pipeline.execute()
        except redis.RedisError:
            return {}
        positions = ((line, broker.position_of(head)) for line, head in zip(lines, heads, strict=True) if head)
        return {line: at for line, at in positions if at is not None}

    def _of_sql(self, lines: Mapping[str, Hashable]) -> dict[str, int]:
        """Whoever waited before is as old as it was."""
        before = self._predictions.now() - int(_AGE_S * 1e6)
        waiting = self._predictions.waiting(dict.fromkeys(lines, before))
        return {line: self._in_sql.get(line, before) for line in waiting}
