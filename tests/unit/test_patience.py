"""Who has to go when the house is full, and that one who fails keeps nobody from being looked at."""

import asyncio

import pytest

from api.patience import House, Limits


class Connection:
    def __init__(self, since: float, *, evictable: bool = True, broken: bool = False) -> None:
        self.since = since
        self.evictable = evictable
        self.evicted = False
        self.looked = 0
        self.looked_twice = asyncio.Event()
        self._broken = broken

    def evict(self) -> None:
        self.evicted = True

    def look(self, now: float) -> None:
        self.looked += 1
        if self.looked == 2:
            self.looked_twice.set()
        if self._broken:
            raise RuntimeError("it is gone")


def test_those_idle_longest_make_room_and_those_at_work_never() -> None:
    house = House(Limits(most=128))
    connections = [Connection(float(n), evictable=n % 2 == 0) for n in range(129)]
    assert house.make_room(connections, 200.0)
    assert [n for n, connection in enumerate(connections) if connection.evicted] == [0, 2]


def test_a_house_that_is_full_of_work_is_not_searched_again_at_once() -> None:
    house = House(Limits(most=4))
    at_work = [Connection(0.0, evictable=False) for _ in range(4)]
    newcomer = Connection(1.0)
    assert not house.make_room([*at_work, newcomer], 1.0)
    at_work[0].evictable = True
    assert not house.make_room([*at_work, newcomer], 1.05)
    assert house.make_room([*at_work, newcomer], 1.2)
    assert at_work[0].evicted
    assert not newcomer.evicted


def test_one_that_cannot_be_looked_at_keeps_nobody_else_from_it(caplog: pytest.LogCaptureFixture) -> None:
    connections = [Connection(0.0, broken=n == 0) for n in range(3)]

    async def run() -> None:
        watching = asyncio.create_task(House(Limits(most=4, read_s=0.05)).watch(connections))
        async with asyncio.timeout(10):
            await asyncio.gather(*[connection.looked_twice.wait() for connection in connections])
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    asyncio.run(run())
    assert "could not be looked at" in caplog.text
