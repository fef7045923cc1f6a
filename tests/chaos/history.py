"""What was seen, as it happened: one JSON object a line, written by callers, receivers and whoever breaks things.

A run leaves these files in its folder, and the checker reads nothing else:

run.json        the store, the seed, when the last fault was over, how long the drain took, which receivers answer
history.jsonl   each call of a client: `invoke`, then `ok`, `fail` (not done) or `info` (nobody knows); and the faults
received.jsonl  each POST that a receiver has read to its end
sql.jsonl       after the drain: every row of predictions, deliveries and claims, by plain SELECTs
redis.json      after the drain: the length of every line
metrics.json    after the drain: what /metrics said, before and after a control group that nothing disturbed

`t` is in seconds since the run began, of one monotonic clock.
"""

import json
import time
from pathlib import Path
from typing import Any

Record = dict[str, Any]


class Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def __call__(self) -> float:
        return round(time.monotonic() - self._began, 4)


class Writer:
    """Appends to one file. Of one thread."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._file = path.open("a", encoding="utf-8")
        self.clock = clock

    def __call__(self, **record: Any) -> None:
        self._file.write(json.dumps({"t": self.clock(), **record}, separators=(",", ":")) + "\n")

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read(path: Path) -> list[Record]:
    """The lines of a file; none if it is not there."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
