"""Work that waits when the clock starts: a paused queue is filled, then let go, and the store says when each ended."""

import contextlib
import json
import sqlite3
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx

from bench.load import Dialect, Job, Measured, Questions
from bench.processes import by_name, spent
from bench.rounds import load
from bench.sides import HEADWAY, Side

#: The first and the last of what ends are left out of the rate: how one starts and stops is not what is asked.
EDGE = 0.05
LIMIT_S = 240.0
_SUBMIT = Dialect(ask="", submit=HEADWAY.submit, field="input")  # not read back: the store is asked


def drain(side: Side, questions: Questions, count: int) -> Measured:
    """`per_s` and `completed_per_s`: predictions that ended a second. `wrong`: those that were refused, and of a
    thousand outputs those that nobody asked for. Raises TimeoutError where some do not end."""
    assert side.system is not None
    database = side.system.database
    load(Job(kind="ask", port=side.port, dialect=side.dialect, questions=questions, callers=8, seconds=0.5))
    with paused(side, questions):
        before = succeeded(database)
        filled = load(
            Job(
                kind="submit", port=side.port, dialect=_SUBMIT, questions=questions, count=count, seconds=120, warm_up=1
            )
        )
        processors = spent(side.pids)
    give_up = time.monotonic() + LIMIT_S
    while (done := succeeded(database) - before) < filled.right:
        if time.monotonic() > give_up:
            raise TimeoutError(f"{done} of {filled.right} ended within {LIMIT_S:.0f} s")
        time.sleep(0.25)
    used = by_name(processors, spent(side.pids))
    moments = moments_of(database, filled.right)
    per_s = rate(moments)
    return Measured(
        per_s=per_s,
        completed_per_s=per_s,
        right=filled.right,
        wrong=filled.wrong + strangers(database, questions),
        processor_us={name: round(s / filled.right * 1e6, 1) for name, s in used.items() if s > 0},
    )


@contextlib.contextmanager
def paused(side: Side, questions: Questions) -> Iterator[None]:
    """What is submitted meanwhile waits. Raises TimeoutError where its workers do not stop."""
    assert side.system is not None
    queue = f"{side.system.control_url}/v1/models/mlp/queue"
    url = f"http://127.0.0.1:{side.port}{side.dialect.ask}"
    httpx.post(f"{queue}/pause", trust_env=False).raise_for_status()
    give_up = time.monotonic() + 20.0
    # Workers hear of it within a second or two: until one that is submitted stays where it is.
    while (
        httpx.post(url, json={"input": questions.inputs[0]}, headers={"Prefer": "wait=1"}, trust_env=False).json()[
            "status"
        ]
        != "queued"
    ):
        if time.monotonic() > give_up:
            raise TimeoutError("the queue was paused, and what came was computed all the same")
    try:
        yield
    finally:
        httpx.post(f"{queue}/resume", trust_env=False).raise_for_status()


def rate(moments: Sequence[int]) -> float:
    """A second, of moments in µs, ascending; many are the same, for a micro-batch ends at once."""
    first, last = moments[int(len(moments) * EDGE)], moments[int(len(moments) * (1 - EDGE)) - 1]
    return (bisect_right(moments, last) - bisect_right(moments, first)) / ((last - first) / 1e6)


def succeeded(database: Path) -> int:
    """Predictions that have."""
    ((count,),) = query(database, "SELECT count(*) FROM predictions WHERE status = 3")
    return int(count)


def moments_of(database: Path, count: int) -> list[int]:
    """When the last `count` ended, in µs, ascending."""
    rows = query(
        database, "SELECT completed_at FROM predictions WHERE status = 3 ORDER BY completed_at DESC LIMIT ?", count
    )
    return sorted(moment for (moment,) in rows)


def strangers(database: Path, questions: Questions) -> int:
    """Of a thousand outputs, those that nobody asked for: the model answers its inputs."""
    asked = {tuple(value) for value in questions.inputs}
    rows = query(database, "SELECT output FROM predictions WHERE status = 3 ORDER BY id DESC LIMIT 1000")
    return sum(tuple(json.loads(output)) not in asked for (output,) in rows)


def query(database: Path, statement: str, *parameters: int) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return connection.execute(statement, parameters).fetchall()
