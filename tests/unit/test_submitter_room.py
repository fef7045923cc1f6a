"""What the committer takes, and when it says that there is no room."""

import asyncio
import threading
from collections.abc import Sequence
from typing import Any, cast

import pytest

from api.problems import Problem
from api.submitter import MOST_WAITING, Submitter
from headway.testing import new_prediction
from headway.types import NewPrediction


class SlowStore:
    """Stores a group when it is allowed to."""

    def __init__(self) -> None:
        self.begun, self.allowed = threading.Event(), threading.Event()
        self.stored = 0

    def insert(self, rows: Sequence[NewPrediction]) -> list[int]:
        self.begun.set()
        assert self.allowed.wait(20)
        self.stored += len(rows)
        return list(range(len(rows)))


class NoPublisher:
    def hint(self, *_: Any) -> None:
        pass


def test_more_than_can_wait_are_told_at_once_and_later_there_is_room_again() -> None:
    async def run() -> None:
        store = SlowStore()
        submitter = Submitter(cast(Any, store), cast(Any, NoPublisher()))
        committing = asyncio.create_task(submitter.run())
        rows = [new_prediction() for _ in range(MOST_WAITING)]  # beforehand: the first is not waited for long
        waiting = [asyncio.ensure_future(submitter.submit(new_prediction(), 32))]
        assert await asyncio.to_thread(store.begun.wait, 5)  # the others wait for it
        submitter.check_room()
        waiting += [asyncio.ensure_future(submitter.submit(row, 32)) for row in rows[1:]]
        await asyncio.sleep(0)
        submitter.check_room()
        waiting.append(asyncio.ensure_future(submitter.submit(rows[0], 32)))
        await asyncio.sleep(0)
        with pytest.raises(Problem) as refused:
            submitter.check_room()
        assert refused.value.code == "unavailable"
        assert refused.value.headers == ((b"retry-after", b"1"),)
        store.allowed.set()
        await asyncio.gather(*waiting)
        submitter.check_room()
        assert store.stored == MOST_WAITING + 1
        committing.cancel()
        await asyncio.gather(committing, return_exceptions=True)
        submitter.close()

    asyncio.run(run())
