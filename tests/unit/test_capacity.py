"""What is accepted while a queue is being counted may be in the count as well; nobody is refused for that."""

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, cast

import pytest

from api.capacity import Capacity
from api.problems import Problem
from api.registry import ModelView
from headway.manifest import parse
from headway.registry import Version

ROW = Version(
    model="busy", version="1", state="ready", reason=None, framework="python", path="/", sha256="",
    manifest=parse({"batching": {"max_queue": 10}}), created_at=0, loaded_at=None, placements=[],
)  # fmt: skip
VIEW = ModelView.of("busy", [ROW])
TARGET = VIEW.targets["1"]


class Store:
    """Counts what was submitted, when it is told to, as a database does that has others to serve."""

    def __init__(self) -> None:
        self.accepted: Counter[str] = Counter()
        self.uncommitted: Counter[str] = Counter()
        self.counts = 0
        self.counting = threading.Event()
        self.go = threading.Event()
        self.go.set()

    def depth(self, lines: Sequence[str], at_most: int) -> int:
        self.counts += 1
        self.counting.set()
        assert self.go.wait(10)
        return min(self.accepted["busy"], at_most)

    def classes(self) -> dict[int, float]:
        return {0: 1.0}

    async def model(self, name: str) -> ModelView:
        return VIEW


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def capacity(store: Store) -> Iterator[Capacity]:
    anything = cast(Any, store)
    made = Capacity(anything, anything, anything, anything)
    yield made
    made.close()


async def submit(capacity: Capacity, store: Store) -> bool:
    try:
        await capacity.admit(TARGET)
    except Problem:
        return False
    store.accepted["busy"] += 1
    return True


def test_what_was_accepted_while_it_was_counted_takes_no_room_twice(capacity: Capacity, store: Store) -> None:
    async def run() -> list[bool]:
        store.go.clear()
        first = asyncio.create_task(submit(capacity, store))
        assert await asyncio.to_thread(store.counting.wait, 10)
        store.accepted["busy"] += 6  # by others; the count that is under way has seen them
        store.go.set()
        return [await first, *[await submit(capacity, store) for _ in range(5)]]

    assert asyncio.run(run()) == [True] * 4 + [False] * 2
    assert store.accepted["busy"] == 10


def test_a_queue_that_was_full_by_a_count_refuses_without_another(capacity: Capacity, store: Store) -> None:
    async def run() -> None:
        store.accepted["busy"] = 10
        assert not await submit(capacity, store)
        counts = store.counts
        assert [await submit(capacity, store) for _ in range(20)] == [False] * 20
        assert store.counts == counts

    asyncio.run(run())
