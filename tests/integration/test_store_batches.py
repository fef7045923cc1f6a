"""Batches in SQL, on both stores: their file by blocks, their items, their counts, their end."""

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from headway import broker
from headway.batches import Batch, BatchStatus, Counts
from headway.clock import new_id, now_us
from headway.errors import ItemCode, ItemError
from headway.states import Status
from headway.types import BULK_PRIORITY, Outcome
from headway.webhooks import WebhookStatus
from storage.batches import ENDED_AT_ONCE, Batches, Block, NewBatch, NewItem
from storage.deliveries import Attempt, Deliveries, Result
from storage.engine import Database
from storage.returning import Returned
from storage.running import Finished

LINE = broker.line("digits", "1", BULK_PRIORITY)


@pytest.fixture
def batches(database: Database) -> Batches:
    return Batches(database)


def new_batch(**fields: Any) -> NewBatch:
    usual: dict[str, Any] = {
        "id": new_id(),
        "tenant_id": "default",
        "model": "digits",
        "version": "1",
        "alias": None,
        "line": LINE,
        "priority": 5,
        "max_attempts": 3,
    }
    return NewBatch(**usual | fields)


def item(line: int, *, bad: bool = False, custom_id: str | None = None) -> NewItem:
    error = ItemError(ItemCode.INVALID_INPUT, "no JSON") if bad else None
    return NewItem(new_id(), line, custom_id, 9, None, b"" if bad else b"%d" % line, error)


def block(number: int, items: Sequence[NewItem], *, before: str = "", last_line: int | None = None) -> Block:
    last = items[-1].line if last_line is None else last_line
    return Block(number=number, before=before, after=f"{before}{number}.", last_line=last, items=items)


def sealed(batches: Batches, count: int, *, bad: Sequence[int] = (), **fields: Any) -> Batch:
    """A batch of so many lines, some of them bad, ready to run."""
    batch = batches.begin(new_batch(**fields), "")
    number, before = 0, ""
    for start in range(1, count + 1, 500):
        lines = range(start, min(start + 500, count + 1))
        made = block(number, [item(line, bad=line in bad, custom_id=f"c{line}") for line in lines], before=before)
        assert batches.append(batch, made)
        number, before = number + 1, made.after
    complete = batches.seal(batch.id, number, before)
    assert complete is not None
    return complete


def ids_of(batches: Batches, batch: Batch, after: int = 0, limit: int = 10_000) -> list[str]:
    return [hint.id for _, _, hint in batches.hints(batch.id, after, limit)]


def run(store: Any, ids: Sequence[str], error: ItemError | None = None) -> None:
    claim, rows = store.claimed(ids)
    assert len(rows) == len(ids)
    outcomes = [Outcome(id=row.id, error=error, output=None if error else row.body) for row in rows]
    store.predictions.finish([Finished(claim=claim, outcomes=outcomes, settled=True)])


def counted(batches: Batches, id_: str) -> Batch:
    """After one count, as a keeper makes it."""
    batch = batches.read(id_)
    assert batch is not None
    reached, more = batches.tally(batch)
    batches.count(batch, reached, more, Counts(), None)
    again = batches.read(id_)
    assert again is not None
    return again


def at_once(count: int, call: Callable[[], Any]) -> list[Any]:
    with ThreadPoolExecutor(count) as pool:
        return [future.result() for future in [pool.submit(call) for _ in range(count)]]


def test_items_are_predictions_in_the_order_of_their_lines_that_nobody_runs_before_the_file_is_complete(
    store: Any, batches: Batches
) -> None:
    batch = batches.begin(new_batch(), "")
    assert batches.append(batch, block(0, [item(1, custom_id="a"), item(2, bad=True), item(4)]))
    assert (batch.status, store.predictions.oldest_queued(LINE, 10)) == (BatchStatus.VALIDATING, [])
    assert batches.seal(batch.id, 0, "") is None
    complete = batches.seal(batch.id, 1, "0.")
    assert complete is not None
    assert (complete.status, complete.total, complete.last_line) == (BatchStatus.IN_PROGRESS, 3, 4)

    hints = batches.hints(batch.id, 0, 10)
    assert [(line, priority) for line, priority, _ in hints] == [(1, 15), (4, 15)]
    first = store.predictions.read([hints[0][2].id])[hints[0][2].id]
    assert (first.batch_id, first.custom_id, first.priority, first.line) == (batch.id, "a", 15, LINE)
    run(store, [hint.id for _, _, hint in hints])
    results = batches.results(batch.id, 0, 10)
    assert [(one.line, one.custom_id, one.output) for one in results] == [
        (1, "a", b"1"),
        (2, None, None),
        (4, None, b"4"),
    ]
    assert results[1].error == ItemError(ItemCode.INVALID_INPUT, "no JSON")
    assert [one.line for one in batches.results(batch.id, 2, 10)] == [4]


def test_a_block_is_stored_once_and_only_after_the_one_before_it(store: Any, batches: Batches) -> None:
    batch = batches.begin(new_batch(), "")
    assert not batches.append(batch, block(1, [item(1)]))
    assert not batches.append(batch, block(0, [item(1)], before="other"))
    stored = at_once(8, lambda: batches.append(batch, block(0, [item(1), item(2)])))
    assert sorted(stored) == [False] * 7 + [True]
    assert batches.append(batch, block(1, [item(3)], before="0."))
    assert [line for line, _, _ in batches.hints(batch.id, 0, 10)] == [1, 2, 3]


def test_a_key_is_one_batchs(batches: Batches) -> None:
    made = at_once(8, lambda: batches.begin(new_batch(idempotency_key="k", idempotency_digest="d"), "").id)
    assert len(set(made)) == 1
    assert batches.begin(new_batch(idempotency_key="k", tenant_id="other"), "").id != made[0]
    found = batches.keyed("default", "k")
    assert found is not None
    assert found.idempotency_digest == "d"
    assert batches.abandon(made[0], "it broke off")
    assert batches.keyed("default", "k") is None


def test_a_batch_is_its_tenants(batches: Batches) -> None:
    mine, theirs = sealed(batches, 1), sealed(batches, 1, tenant_id="other")
    assert batches.read(theirs.id, "default") is None
    assert batches.cancel(theirs.id, "default") == (False, None)
    assert [row.id for row in batches.page("default").rows] == [mine.id]
    assert batches.read("no id") is None


def test_a_list_has_the_newest_first_page_by_page(batches: Batches) -> None:
    made = [sealed(batches, 1).id for _ in range(5)]
    page = batches.page("default", limit=2)
    assert ([row.id for row in page.rows], page.more) == ([made[4], made[3]], True)
    page = batches.page("default", limit=3, after=page.rows[-1].id)
    assert ([row.id for row in page.rows], page.more) == ([made[2], made[1], made[0]], False)
    batches.cancel(made[2], "default")
    assert [row.id for row in batches.page("default", status=BatchStatus.CANCELING).rows] == [made[2]]


def test_what_is_to_be_published_is_one_keepers(batches: Batches) -> None:
    batch = sealed(batches, 10)
    assert sorted(at_once(4, lambda: batches.feed(batch.id, 0, 4))) == [False, False, False, True]
    assert batches.feed(batch.id, 4, 10)
    batches.cancel(batch.id, "default")
    assert not batches.feed(batch.id, 10, 10)


def test_what_has_ended_is_counted_once_from_the_first_line_on(store: Any, batches: Batches) -> None:
    batch = sealed(batches, 12, bad=[2])
    ids = ids_of(batches, batch)
    run(store, ids[1:4])  # lines 3 to 5
    assert counted(batches, batch.id).counted == 0
    assert batches.glance(batch.id, 0, 12) == Counts(succeeded=3, failed=1)
    run(store, ids[:1])
    stale = batches.read(batch.id)
    assert stale is not None
    reached, more = batches.tally(stale)
    assert (reached, more) == (5, Counts(succeeded=4, failed=1))
    assert sorted(at_once(4, lambda: batches.count(stale, reached, more, Counts(), 2.5))) == [False] * 3 + [True]

    run(store, ids[4:8], ItemError(ItemCode.MODEL_ERROR, "no"))
    run(store, ids[8:])
    last = counted(batches, batch.id)
    assert (last.counted, last.counts) == (12, Counts(succeeded=7, failed=5))


def test_the_end_of_a_batch_comes_once_and_with_its_webhook(store: Any, batches: Batches, database: Database) -> None:
    batch = sealed(batches, 3, webhook="https://hooks.example.com/x")
    assert batches.complete(batch.id) is None
    run(store, ids_of(batches, batch))
    assert batches.complete(batch.id) is None  # ended and not counted
    counted(batches, batch.id)
    ended = [one for one in at_once(8, lambda: batches.complete(batch.id)) if one is not None]
    assert [one.status for one in ended] == [BatchStatus.COMPLETED]
    assert batches.open() == []

    deliveries = Deliveries(database)
    assert deliveries.due_receivers() == ["https://hooks.example.com"]
    (leased,) = deliveries.lease({"https://hooks.example.com": 10}, 60)
    assert (leased.event, leased.subject, leased.url) == ("batch.completed", ended[0], "https://hooks.example.com/x")
    attempt = Attempt(at=now_us(), seconds=0.1, status_code=200, error=None)
    deliveries.record([Result(leased=leased, state=WebhookStatus.SUCCEEDED, attempt=attempt)])
    assert deliveries.due_receivers() == []


def test_a_cancel_ends_what_waits_at_once_and_what_runs_when_its_device_lets_go(store: Any, batches: Batches) -> None:
    batch = sealed(batches, ENDED_AT_ONCE + 100)
    ids = ids_of(batches, batch)
    claim, _ = store.claimed(ids[:2])
    changed, row = batches.cancel(batch.id, "default")
    assert changed
    assert row is not None
    assert (row.status, batches.cancel(batch.id, "default")[0]) == (BatchStatus.CANCELING, False)

    after, ended = batches.end_items(row, 0)
    assert (len(ended), {one.status for one in ended.values()}) == (ENDED_AT_ONCE, {Status.CANCELED})
    after, more = batches.end_items(row, after or 0)
    assert (after, len(ended) + len(more)) == (None, ENDED_AT_ONCE + 98)
    assert sorted(batches.cancel_running(row)) == sorted(ids[:2])
    assert batches.cancel_running(row) == []
    assert batches.complete(batch.id) is None

    error = ItemError(ItemCode.MODEL_ERROR, "no")
    outcomes = [Outcome(id=ids[0], output=b"1"), Outcome(id=ids[1], error=error)]
    store.predictions.finish([Finished(claim=claim, outcomes=outcomes, settled=True)])
    assert counted(batches, batch.id).counts == Counts(succeeded=1, canceled=ENDED_AT_ONCE + 99)
    done = batches.complete(batch.id)
    assert done is not None
    assert done.status is BatchStatus.CANCELED
    assert batches.cancel(batch.id, "default")[0] is False


def test_what_has_not_begun_when_the_window_is_over_expires(store: Any, batches: Batches) -> None:
    batch = sealed(batches, 4, window_us=60_000_000)
    assert batch.expires_at is not None
    assert batch.sealed_at is not None
    assert batch.expires_at - batch.sealed_at == 60_000_000
    assert not batches.expire(batch.id)
    run(store, ids_of(batches, batch)[:1])
    store.execute(f"UPDATE batches SET expires_at = 1 WHERE id = '{batch.id}'")
    assert batches.expire(batch.id)
    row = batches.read(batch.id)
    assert row is not None
    assert (row.status, row.ending) == (BatchStatus.IN_PROGRESS, BatchStatus.EXPIRED)
    batches.end_items(row, 0)
    assert counted(batches, batch.id).counts == Counts(succeeded=1, expired=3)
    done = batches.complete(batch.id)
    assert done is not None
    assert done.status is BatchStatus.EXPIRED


def test_a_file_that_was_never_completed_fails_its_batch(store: Any, batches: Batches) -> None:
    batch = batches.begin(new_batch(), "")
    batches.append(batch, block(0, [item(1), item(2)]))
    assert not batches.abandon(batch.id, "it was never completed", untouched_s=60)
    assert batches.abandon(batch.id, "it was never completed")
    assert not batches.append(batch, block(1, [item(3)], before="0."))
    assert batches.seal(batch.id, 1, "0.") is None
    row = batches.read(batch.id)
    assert row is not None
    batches.end_items(row, 0)
    counted(batches, batch.id)
    done = batches.complete(batch.id)
    assert done is not None
    assert (done.status, done.error, done.counts) == (BatchStatus.FAILED, "it was never completed", Counts(canceled=2))


def test_an_item_that_was_counted_is_not_retried_and_one_that_is_deleted_leaves_its_line(
    store: Any, batches: Batches
) -> None:
    batch = sealed(batches, 2)
    ids = ids_of(batches, batch)
    run(store, ids[:1], ItemError(ItemCode.MODEL_ERROR, "no"))
    run(store, ids[1:])
    assert store.predictions.retry(ids[0], "default")[0] is False
    assert store.predictions.delete(ids[1], "default")[0]
    results = batches.results(batch.id, 0, 10)
    assert [(one.line, one.deleted) for one in results] == [(1, False), (2, True)]
    assert counted(batches, batch.id).counts == Counts(succeeded=1, failed=1)


def test_items_stay_as_long_as_their_batch_runs_and_go_before_it(store: Any, batches: Batches) -> None:
    batch = sealed(batches, 3)
    ids = ids_of(batches, batch)
    run(store, ids[:2])
    later = now_us() + 10**12
    assert _purge(store, later) == 0
    run(store, ids[2:])
    counted(batches, batch.id)
    batches.complete(batch.id)
    assert batches.purge(later) == 0
    assert _purge(store, later) == 3
    assert batches.purge(later) == 1
    assert batches.read(batch.id) is None


def _purge(store: Any, before: int) -> int:
    gone, last = 0, None
    while True:
        last, count, _ = store.predictions.purge(before, after=last)
        if last is None:
            return gone
        gone += count


def test_items_of_a_batch_are_no_backlog_of_their_line_until_they_come_back(store: Any, batches: Batches) -> None:
    batch = sealed(batches, 5)
    assert store.predictions.depth([LINE], 100) == 0
    ids = ids_of(batches, batch)
    claim, _ = store.claimed(ids[:2])
    given = store.predictions.give_back(claim, [Returned(id=id_) for id_ in ids[:2]], True)
    assert [(line, priority) for line, priority, _ in given.queued] == [(LINE, 15)] * 2
    assert [hint.id for _, hint in store.predictions.oldest_queued(LINE, 10)] == ids[:2]
    assert Counter(row.status for row in store.predictions.read(ids).values()) == {Status.QUEUED: 5}
