"""What /ready says of workers and of the utility worker: how long ago they were last heard of."""

import asyncio
from typing import Any, cast

from api.beats import Beats
from storage.workers import Workers


class Seen:
    """What SQL says."""

    def __init__(self) -> None:
        self.now = 100.0
        self.rows: dict[str, int] = {}
        self.left: float | None = None

    def beats(self) -> dict[str, int]:
        return dict(self.rows)

    def lease_left(self, name: str) -> float | None:
        return self.left


def looked(beats: Beats) -> tuple[dict[str, Any], dict[str, Any]]:
    asyncio.run(beats.refresh())
    return beats.workers(), beats.utility()


def test_a_worker_is_late_whose_beat_stands_still() -> None:
    seen = Seen()
    beats = Beats(cast(Workers, seen), lambda: seen.now)
    assert looked(beats)[0] == {"live": 0, "late": 0, "oldest_beat_s": 0.0}
    for second in range(9):
        seen.now += 1
        seen.rows = {"beating": second, "stopped": 7}
        workers, _ = looked(beats)
    assert workers == {"live": 2, "late": 1, "oldest_beat_s": 8.0}
    del seen.rows["stopped"]  # declared dead
    assert looked(beats)[0] == {"live": 1, "late": 0, "oldest_beat_s": 0.0}
    beats.close()


def test_the_utility_worker_is_as_old_as_its_lease() -> None:
    seen = Seen()
    beats = Beats(cast(Workers, seen), lambda: seen.now)
    assert looked(beats)[1] == {"state": "down", "last_seen_s": None}
    seen.left = 8.5
    assert looked(beats)[1] == {"state": "up", "last_seen_s": 1.5}
    seen.left = -60.0
    assert looked(beats)[1] == {"state": "down", "last_seen_s": 70.0}
    beats.close()
