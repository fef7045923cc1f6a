"""What ended is kept for the retention, then goes in small steps; what has not ended stays, however old."""

import threading
from typing import Any

import pytest
import redis

from headway.clock import now_us
from headway.errors import ItemCode, ItemError, SettingsError
from headway.settings import Settings
from headway.states import Status
from headway.types import Outcome
from headway.webhooks import Events
from storage.running import Finished
from workers.janitor import Janitor
from workers.publisher import Publisher

DAY_US = 86_400_000_000


def aged(store: Any, ids: list[str], days: float) -> list[str]:
    """The same rows as if they had come, and ended where they have, that long ago; their ids say so too."""
    old = []
    for id_ in ids:
        milliseconds = f"{int(now_us() - days * DAY_US) // 1000:012x}"
        older = f"{milliseconds[:8]}-{milliseconds[8:]}{id_[13:]}"
        store.execute(f"UPDATE inputs SET id = '{older}' WHERE id = '{id_}'")
        ended = f"completed_at = completed_at - {int(days * DAY_US)}"
        store.execute(f"UPDATE predictions SET id = '{older}', {ended} WHERE id = '{id_}'")
        old.append(older)
    return old


def one_of_each(store: Any, days: float) -> dict[Status, str]:
    """A row in every status a row can rest in, that old."""
    queued, running, succeeded, failed, canceled, expired = store.submitted(6)
    claim, _ = store.claimed([running, succeeded, failed])
    error = ItemError(ItemCode.MODEL_ERROR, "no")
    outcomes = [Outcome(id=succeeded, output=b"1"), Outcome(id=failed, error=error)]
    store.predictions.finish([Finished(claim=claim, outcomes=outcomes, settled=False)])
    store.predictions.cancel_queued([canceled], "default")
    store.execute(f"UPDATE predictions SET expires_at = 1 WHERE id = '{expired}'")
    assert list(store.predictions.expire()) == [expired]
    ids = aged(store, [queued, running, succeeded, failed, canceled, expired], days)
    statuses = (Status.QUEUED, Status.IN_PROGRESS, Status.SUCCEEDED, Status.FAILED, Status.CANCELED, Status.EXPIRED)
    return dict(zip(statuses, ids, strict=True))


def purged(store: Any, days: float = 7, limit: int = 500) -> list[int]:
    """A whole round: how many went at each step."""
    counts: list[int] = []
    last = None
    while True:
        last, count, _ = store.predictions.purge(int(now_us() - days * DAY_US), after=last, limit=limit)
        if last is None:
            return counts
        counts.append(count)


def test_only_what_ended_before_the_retention_goes_with_its_input(store: Any) -> None:
    old, young = one_of_each(store, 8), one_of_each(store, 6)
    (late,) = aged(store, store.submitted(), 30)  # submitted long ago, ended now
    claim, _ = store.claimed([late])
    store.finished(claim, [late])

    assert sum(purged(store)) == 4

    left = {old[Status.QUEUED], old[Status.IN_PROGRESS], *young.values(), late}
    assert set(store.predictions.read([*old.values(), *young.values(), late])) == left
    assert store.count("predictions") == store.count("inputs") == len(left)
    assert store.predictions.read_input(old[Status.SUCCEEDED], "default") is None
    assert sum(purged(store)) == 0


def test_what_owes_a_webhook_stays_until_it_is_delivered_or_given_up(store: Any) -> None:
    ids = store.submitted(4, webhook="https://example.com/hook", webhook_events=Events.COMPLETED)
    claim, _ = store.claimed(ids)
    store.finished(claim, ids)
    pending, delivered, given_up, owes_again = aged(store, ids, 8)
    for old, new in zip(ids, (pending, delivered, given_up, owes_again), strict=True):
        store.execute(f"UPDATE deliveries SET prediction_id = '{new}' WHERE prediction_id = '{old}'")
    store.execute(f"UPDATE deliveries SET state = 1 WHERE prediction_id = '{delivered}'")
    store.execute(f"UPDATE deliveries SET state = 2 WHERE prediction_id = '{given_up}'")

    assert sum(purged(store)) == 2
    assert set(store.predictions.read([pending, delivered, given_up, owes_again])) == {pending, owes_again}
    assert store.count("deliveries") == 2
    store.execute("UPDATE deliveries SET state = 1")
    assert sum(purged(store)) == 2
    assert store.count("deliveries") == 0


def test_it_goes_in_steps_past_what_must_stay(store: Any) -> None:
    ids = store.submitted(40)
    claim, _ = store.claimed(ids[10:])
    store.finished(claim, ids[10:])
    aged(store, ids, 8)  # the oldest ten never ran

    assert purged(store, limit=10) == [0, 10, 10, 10]
    assert store.predictions.count_by_status() == {Status.QUEUED: 10}


def test_the_janitor_purges_while_others_finish(store: Any, fresh_redis_url: str) -> None:
    old = store.submitted(700)
    for start in (0, 500):
        claim, _ = store.claimed(old[start : start + 500])
        store.finished(claim, old[start : start + 500])
    publisher = Publisher(fresh_redis_url)
    client = redis.Redis.from_url(fresh_redis_url)
    janitor = Janitor(store.database, client, publisher, retention_s=1e-6)
    fresh: list[str] = []
    enough = threading.Event()

    def work() -> None:
        while not enough.is_set():
            ids = store.submitted(3)
            claim, rows = store.claimed(ids)
            fresh.extend(ids)
            assert store.finished(claim, ids) == set(ids) == {row.id for row in rows}

    worker = threading.Thread(target=work)
    worker.start()
    try:
        for _ in range(5):
            janitor.step()
    finally:
        enough.set()
        worker.join()
        publisher.close()
        client.close()
    assert store.predictions.read(old) == {}
    assert fresh


def test_a_row_that_is_retried_while_it_is_purged_is_left_or_gone_whole(store: Any) -> None:
    ids = store.submitted(3)
    store.predictions.cancel_queued(ids, "default")
    ids = aged(store, ids, 8)
    store.execute(f"UPDATE predictions SET status = 0, completed_at = NULL WHERE id = '{ids[1]}'")

    assert sum(purged(store)) == 2
    assert store.predictions.read_input(ids[1], "default") is not None


@pytest.mark.parametrize(
    ("text", "seconds"), [(None, 604_800), ("7d", 604_800), ("12h", 43_200), ("30m", 1800), ("90s", 90), ("90", 90)]
)
def test_the_retention_is_a_time(text: str | None, seconds: int) -> None:
    environ = {} if text is None else {"HEADWAY_RETENTION": text}
    assert Settings.from_environ(environ).retention_s == seconds


@pytest.mark.parametrize("text", ["", "0", "0d", "-1", "1w", "d", "1.5d", "٣d", "99999999d"])
def test_a_retention_that_is_no_time_is_refused_by_its_name(text: str) -> None:
    with pytest.raises(SettingsError, match="HEADWAY_RETENTION"):
        Settings.from_environ({"HEADWAY_RETENTION": text})
