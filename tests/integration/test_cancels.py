"""A worker hears of cancels over Redis, trusts SQL, and writes down how far its predictions are."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import redis

from headway import notices
from headway.states import Status
from headway.testing import wait_until
from workers.cancels import Cancels
from workers.claims import Claims
from workers.progress import Progress


@pytest.fixture
def heard() -> list[Mapping[str, str]]:
    return []


@pytest.fixture
def listening(
    store: Any, fresh_redis_url: str, heard: list[Mapping[str, str]]
) -> Iterator[tuple[Callable[[], Cancels], Claims]]:
    """(starts it once, what the worker holds)."""
    claims = Claims()
    cancels = Cancels(fresh_redis_url, predictions=store.predictions, claims=claims, cancel=heard.append)

    def start() -> Cancels:
        cancels.start()
        return cancels

    yield start, claims
    cancels.close()


def running(store: Any, claims: Claims) -> tuple[str, str]:
    """(a prediction of this worker, its claim)."""
    (id_,) = store.submitted()
    claim, rows = store.claimed([id_])
    assert [row.id for row in rows] == [id_]
    claims.open(claim, [id_])
    claims.hold(claim, [id_])
    return id_, claim


def publish(url: str, *ids: str) -> None:
    with redis.Redis.from_url(url) as client:
        wait_until(lambda: client.publish(notices.CANCELS, notices.encode_ids(ids)), what="somebody to listen")


def test_a_cancel_is_passed_on_with_its_claim_and_one_of_others_is_not(
    store: Any, fresh_redis_url: str, listening: Any, heard: list[Mapping[str, str]]
) -> None:
    start, claims = listening
    id_, claim = running(store, claims)
    other, _ = running(store, Claims())  # another worker's
    start()
    for one in (other, id_):
        store.predictions.cancel(one, "default")
        publish(fresh_redis_url, one)
    wait_until(lambda: heard, what="the cancel")
    assert all(one == {id_: claim} for one in heard)  # said twice does no harm
    assert claims.canceled({id_: claim, other: "x"}) == {id_}


def test_a_late_word_of_a_cancel_means_nothing_to_who_runs_the_prediction_again(
    store: Any, fresh_redis_url: str, listening: Any, heard: list[Mapping[str, str]]
) -> None:
    start, claims = listening
    id_, claim = running(store, claims)
    start()
    with redis.Redis.from_url(fresh_redis_url) as client:
        wait_until(lambda: client.pubsub_numsub(notices.CANCELS)[0][1], what="it to listen")
        client.publish(notices.CANCELS, b"no list of ids")
        client.publish(notices.CANCELS, notices.encode_ids([id_]))  # it is not being canceled, or not any more
    after, its_claim = running(store, claims)
    store.predictions.cancel(after, "default")
    publish(fresh_redis_url, after)
    wait_until(lambda: heard, what="the cancel")
    assert all(one == {after: its_claim} for one in heard)
    assert claims.canceled({id_: claim}) == set()


def test_what_was_missed_before_it_listened_or_while_redis_was_away_is_asked_of_sql(
    store: Any, fresh_redis_url: str, listening: Any, heard: list[Mapping[str, str]]
) -> None:
    start, claims = listening
    early, early_claim = running(store, claims)
    store.predictions.cancel(early, "default")
    start()
    wait_until(lambda: {early: early_claim} in heard, what="what came before it listened")
    missed, claim = running(store, claims)
    store.predictions.cancel(missed, "default")
    with redis.Redis.from_url(fresh_redis_url) as client:
        client.client_kill_filter(_type="pubsub")
    wait_until(lambda: {early: early_claim, missed: claim} in heard, what="what came while it was away")


def test_the_last_progress_is_written_and_none_of_what_has_ended(store: Any) -> None:
    claims = Claims()
    (a, claim), (b, other) = running(store, claims), running(store, claims)
    progress = Progress(store.predictions)
    progress.start()
    try:
        progress.said(a, claim, b'{"fraction": 0.1, "message": null}')
        progress.said(a, claim, b'{"fraction": 0.2, "message": null}')
        progress.said(b, other, b'{"fraction": 0.3, "message": null}')
        progress.forget([b])
        wait_until(lambda: store.predictions.read([a])[a].progress, what="a progress")
        rows = store.predictions.read([a, b])
        assert rows[a].progress == b'{"fraction": 0.2, "message": null}'
        assert (rows[b].progress, rows[b].status) == (None, Status.IN_PROGRESS)
    finally:
        progress.close()
