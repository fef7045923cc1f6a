"""What the utility worker does for batches: feeds them a little ahead, finds what was lost, counts and ends them."""

import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis

from headway import broker, notices
from headway.batches import Batch, BatchStatus, Counts
from headway.manifest import parse
from headway.testing import wait_until
from headway.types import BULK_PRIORITY, Outcome
from headway.versions import Found
from storage.batches import Batches, Block
from storage.engine import Database
from storage.models import Models
from storage.running import Finished
from tests.integration.test_store_batches import item, new_batch
from workers.batches import BatchKeeper
from workers.publisher import Publisher

LINE = broker.line("digits", "1", BULK_PRIORITY)
PATIENCE_S = 10.0


class World:
    """A keeper whose clock the test moves, and the Redis that it feeds."""

    def __init__(self, database: Database, redis_url: str) -> None:
        Models(database).register(
            Found(
                model="digits",
                version="1",
                path=Path("/nowhere"),
                manifest=parse({"batching": {"max_batch_size": 4}}),
                error=None,
            )
        )
        self.database = database
        self.batches = Batches(database)
        self.redis = redis.Redis.from_url(redis_url)
        self.publisher = Publisher(redis_url)
        self.now = 1000.0
        self.keeper = self.another()

    def another(self) -> BatchKeeper:
        return BatchKeeper(self.database, self.redis, self.publisher, patience_s=PATIENCE_S, clock=lambda: self.now)

    def batch(self, count: int, **fields: Any) -> Batch:
        batch = self.batches.begin(new_batch(**fields), "")
        items = [item(line) for line in range(1, count + 1)]
        assert self.batches.append(batch, Block(number=0, before="", after="0", last_line=count, items=items))
        sealed = self.batches.seal(batch.id, 1, "0")
        assert sealed is not None
        return sealed

    def read(self, batch: Batch) -> Batch:
        row = self.batches.read(batch.id)
        assert row is not None
        return row

    def step(self, seconds: float = 0.1, times: int = 1) -> None:
        for _ in range(times):
            self.now += seconds
            self.keeper.step()

    def fetch(self, envelopes: int = 1_000_000) -> list[str]:
        """Ids from the head of the line, as a worker would get them."""
        ids: list[str] = []
        for _ in range(envelopes):
            message: Any = self.redis.rpop(LINE)
            if message is None:
                break
            ids += _ids(message)
        return ids

    def close(self) -> None:
        self.publisher.close()
        self.redis.close()


def _ids(message: bytes) -> list[str]:
    return broker.decode_body(json.loads(message)["body"]).ids


@pytest.fixture
def world(database: Database, fresh_redis_url: str) -> Iterator[World]:
    made = World(database, fresh_redis_url)
    yield made
    made.close()


def lines_of(world: World, batch: Batch, ids: Sequence[str]) -> list[int]:
    rows = world.batches.hints(batch.id, 0, 100_000)
    by_id = {hint.id: line for line, _, hint in rows}
    return [by_id[id_] for id_ in ids]


def test_a_batch_is_fed_in_the_order_of_its_lines_and_redis_never_holds_all_of_it(world: World) -> None:
    batch = world.batch(5_000)
    fetched: list[int] = []
    most = 0
    while len(fetched) < 5_000:
        world.step()
        most = max(most, world.redis.llen(LINE) * 16)
        fetched += lines_of(world, batch, world.fetch(40))
    assert fetched == list(range(1, 5_001))
    assert most < 1_500


def test_a_hungry_line_is_fed_more_each_time_and_a_slow_one_is_not(world: World) -> None:
    batch = world.batch(20_000)
    taken = []
    for _ in range(4):
        world.step()
        taken.append(len(world.fetch()))
    assert taken == sorted(taken)
    assert taken[-1] >= 4 * taken[0]
    world.step()
    there = world.redis.llen(LINE)
    world.step(times=10)
    assert world.redis.llen(LINE) == there
    assert world.read(batch).fed < 20_000


def test_two_keepers_publish_nothing_twice_and_count_nothing_twice(world: World, store: Any) -> None:
    batch = world.batch(2_000)
    seen: list[str] = []

    def keep() -> None:
        keeper = world.another()
        for _ in range(30):
            keeper.step()

    def work() -> None:
        while len(seen) < 2_000:
            ids = world.fetch(8)
            if ids:
                seen.extend(ids)
                claim, rows = store.claimed(ids)
                outcomes = [Outcome(id=row.id, output=b"1") for row in rows]
                store.predictions.finish([Finished(claim=claim, outcomes=outcomes, settled=True)])

    threads = [threading.Thread(target=work), *(threading.Thread(target=keep) for _ in range(3))]
    for thread in threads:
        thread.start()
    for thread in threads[1:]:
        thread.join(60)
    while threads[0].is_alive():
        world.step()
        threads[0].join(0.01)
    assert len(seen) == len(set(seen)) == 2_000
    while not world.read(batch).status.terminal:
        world.step()
    assert world.read(batch).counts == Counts(succeeded=2_000)


def test_a_more_urgent_batch_passes_what_is_not_in_redis_yet(world: World) -> None:
    slow = world.batch(3_000, priority=7)
    world.step()
    urgent = world.batch(8, priority=2)
    in_redis = world.read(slow).fed
    assert in_redis < 1_000
    ids = world.fetch(in_redis // 8)
    while world.read(urgent).fed == 0:
        world.step()
        ids += world.fetch(10)
    ids += world.fetch()
    assert {hint.id for _, _, hint in world.batches.hints(urgent.id, 0, 10)} <= set(ids)
    assert world.read(slow).fed < 2_000


def test_what_redis_lost_is_published_again_once_nothing_moves(world: World, store: Any) -> None:
    batch = world.batch(40)
    world.step()
    lost = world.fetch()  # and nobody has them
    assert len(lost) == 40
    world.step(times=3)
    assert world.fetch() == []
    world.step(PATIENCE_S)
    assert lines_of(world, batch, world.fetch()) == list(range(1, 41))


def test_what_was_passed_by_is_published_again_while_the_batch_goes_on(world: World, store: Any) -> None:
    """A worker died with a window full of hints; the others go on behind it."""
    batch = world.batch(4_000)
    world.step()
    in_the_window = world.fetch(2)
    world.step(times=2)
    while world.now < 1000 + PATIENCE_S - 2:
        store.claimed(world.fetch(1))
        world.step(1.0)
        assert not set(world.fetch(1)) & set(in_the_window)
    assert lines_of(world, batch, in_the_window) == list(range(1, 33))
    for _ in range(8):
        store.claimed(world.fetch(1))
        world.step(1.0)
        first: Any = world.redis.lindex(LINE, -1)
        if set(_ids(first)) & set(in_the_window):
            break
    assert lines_of(world, batch, world.fetch(2)) == list(range(1, 33))
    assert world.read(batch).fed < 4_000


def test_what_was_lost_at_the_end_of_a_batch_is_published_again_though_others_keep_the_line_full(world: World) -> None:
    first = world.batch(40)
    world.step()
    lost = world.fetch()  # and nobody has them
    other = world.batch(2_000)
    for _ in range(70):
        world.step(1.0)
        assert world.redis.llen(LINE) > 0
        if again := [id_ for id_ in world.fetch(1) if id_ in lost]:
            break
    assert again, "they wait for ever"
    assert world.read(first).fed == 40
    assert world.read(other).fed < 2_000


def test_a_cancel_ends_all_that_waits_tells_the_workers_and_is_over_when_they_let_go(world: World, store: Any) -> None:
    listening = world.redis.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
    listening.subscribe(notices.CANCELS)
    wait_until(lambda: listening.subscribed, 5, "the subscription")
    listening.get_message(timeout=1)
    batch = world.batch(1_200)
    world.step()
    running = world.fetch(1)
    claim, _ = store.claimed(running)
    world.batches.cancel(batch.id, "default")
    world.step()
    told: Any = wait_until(lambda: listening.get_message(timeout=0.1), 10, "the workers to be told")
    assert set(notices.decode_ids(told["data"])) == set(running)
    assert world.read(batch).status is BatchStatus.CANCELING
    outcomes = [Outcome(id=id_, canceled=True) for id_ in running]
    store.predictions.finish([Finished(claim=claim, outcomes=outcomes, settled=True)])
    world.step()
    ended = world.read(batch)
    assert (ended.status, ended.counts) == (BatchStatus.CANCELED, Counts(canceled=1_200))
    listening.close()


def test_a_file_that_is_not_completed_in_time_fails_its_batch(world: World, store: Any) -> None:
    batch = world.batches.begin(new_batch(), "")
    world.batches.append(batch, Block(number=0, before="", after="0", last_line=3, items=[item(1), item(3)]))
    world.step()
    assert world.read(batch).status is BatchStatus.VALIDATING
    store.execute(f"UPDATE batches SET touched_at = touched_at - {25 * 3_600_000_000} WHERE id = '{batch.id}'")
    world.step(times=3)
    ended = world.read(batch)
    assert (ended.status, ended.error) == (BatchStatus.FAILED, "The upload was never completed.")


def test_a_batch_whose_window_is_over_expires(world: World, store: Any) -> None:
    batch = world.batch(10, window_us=1)
    world.step(times=3)
    ended = world.read(batch)
    assert (ended.status, ended.counts) == (BatchStatus.EXPIRED, Counts(expired=10))


def test_the_pace_and_what_has_ended_beyond_a_slow_item_are_told(world: World, store: Any) -> None:
    batch = world.batch(100)
    world.step()
    ids = world.fetch()
    slow, *others = ids
    store.claimed([slow])
    for start in range(0, 60, 20):
        claim, rows = store.claimed(others[start : start + 20])
        outcomes = [Outcome(id=row.id, output=b"1") for row in rows]
        store.predictions.finish([Finished(claim=claim, outcomes=outcomes, settled=True)])
        world.step(2.0)
    row = world.read(batch)
    assert (row.counted, row.ahead) == (0, Counts(succeeded=60))
    assert row.rate == pytest.approx(10, rel=0.1)
