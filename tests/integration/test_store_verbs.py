"""What a client's verbs do in SQL: keys of idempotency, cancel, retry, delete, progress, pages. On both stores."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from headway.clock import new_id
from headway.errors import ItemCode, ItemError
from headway.states import TRANSITIONS, Status, history
from headway.testing import new_prediction
from headway.types import Outcome, Prediction
from storage.predictions import Predictions
from storage.returning import Returned
from storage.running import Finished
from storage.submitting import Held


def keyed(key: str, digest: str = "d1", **fields: Any) -> Any:
    return new_prediction(idempotency_key=key, idempotency_digest=digest, **fields)


def row(store: Any, id_: str) -> Prediction:
    found: Prediction = store.predictions.read([id_])[id_]
    return found


def story(store: Any, id_: str) -> list[Status]:
    one = row(store, id_)
    return [
        step.status
        for step in history(
            one.status, created_at=one.created_at, started_at=one.started_at, completed_at=one.completed_at, log=one.log
        )
    ]


# Idempotency keys


def test_a_key_belongs_to_the_first_row_that_came_with_it(store: Any) -> None:
    first, again, other, elsewhere = keyed("k"), keyed("k"), keyed("k", "d2"), keyed("k", tenant_id="acme")

    assert isinstance(store.predictions.insert([first])[0], int)
    answers = store.predictions.insert([again, new_prediction(), other, elsewhere])

    assert answers[0] == Held(first.id, True)
    assert answers[2] == Held(first.id, False)
    assert isinstance(answers[1], int)
    assert isinstance(answers[3], int)
    assert store.count("predictions") == store.count("inputs") == 3
    assert store.predictions.holder("default", "k", "d1") == Held(first.id, True)
    assert store.predictions.holder("acme", "k", "d2") == Held(elsewhere.id, False)
    assert store.predictions.holder("nobody", "k", "d1") is None


def test_of_equal_keys_within_a_group_the_first_is_the_row(store: Any) -> None:
    rows = [keyed("same") for _ in range(100)]

    answers = store.predictions.insert(rows)

    (made,) = [row.id for row, answer in zip(rows, answers, strict=True) if isinstance(answer, int)]
    assert {answer for answer in answers if not isinstance(answer, int)} == {Held(made, True)}
    assert store.count("predictions") == store.count("inputs") == 1


def test_a_group_with_keys_may_be_sent_again(store: Any) -> None:
    rows = [keyed("a"), new_prediction(), keyed("b")]

    positions = store.predictions.insert(rows)

    assert store.predictions.insert(rows) == positions
    assert store.count("inputs") == 3


def test_a_hundred_at_once_with_one_key_make_one_row_and_nobody_deadlocks(store: Any) -> None:
    start = threading.Barrier(10)

    def submit(n: int) -> list[Any]:
        start.wait()
        # Each group has all the keys, in an order of its own.
        order = range(10) if n % 2 else reversed(range(10))
        return list(store.predictions.insert([keyed(f"k{key}") for key in order]))

    with ThreadPoolExecutor(10) as pool:
        answers = [answer for group in pool.map(submit, range(10)) for answer in group]

    assert sum(isinstance(answer, int) for answer in answers) == 10 == store.count("predictions")
    assert all(answer.same for answer in answers if isinstance(answer, Held))
    assert store.count("inputs") == 10


# Cancel


def test_what_is_queued_is_canceled_at_once_and_never_claimed(store: Any) -> None:
    (id_,) = store.submitted()

    changed, after = store.predictions.cancel(id_, "default")

    assert changed
    assert after.status is Status.CANCELED
    assert after.completed_at is not None
    assert store.claimed([id_])[1] == []
    assert store.predictions.cancel(id_, "default") == (False, after)
    assert story(store, id_) == [Status.QUEUED, Status.CANCELED]


def test_what_runs_is_canceling_until_the_device_lets_go(store: Any) -> None:
    (id_,) = store.submitted()
    claim, _ = store.claimed([id_])

    changed, after = store.predictions.cancel(id_, "default")
    assert (changed, after.status, after.completed_at) == (True, Status.CANCELING, None)
    assert store.predictions.cancel(id_, "default")[0] is False

    store.predictions.give_back(claim, [Returned(id=id_)], True)
    assert row(store, id_).status is Status.CANCELED
    assert story(store, id_) == [Status.QUEUED, Status.IN_PROGRESS, Status.CANCELING, Status.CANCELED]


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        ({"output": b"1"}, Status.SUCCEEDED),
        ({"error": ItemError(ItemCode.MODEL_ERROR, "stopped")}, Status.CANCELED),
        ({"canceled": True}, Status.CANCELED),
    ],
)
def test_a_result_that_comes_after_a_cancel(store: Any, outcome: dict[str, Any], status: Status) -> None:
    """What was computed is kept; what failed was stopped, for all that anybody knows."""
    (id_,) = store.submitted()
    claim, _ = store.claimed([id_])
    store.predictions.cancel(id_, "default")

    ended = store.predictions.finish([Finished(claim=claim, outcomes=[Outcome(id=id_, **outcome)], settled=True)])

    after = row(store, id_)
    assert after.status is ended[id_].status is status
    assert after.error is ended[id_].error is None
    assert after.output == ended[id_].output
    assert store.count("claims") == 0


def test_another_tenants_prediction_is_not_there(store: Any) -> None:
    (id_,) = store.submitted()
    for verb in (store.predictions.cancel, store.predictions.retry, store.predictions.delete):
        assert verb(id_, "acme") == (False, None)
        assert verb(new_id(), "default") == (False, None)
        assert verb("no id", "default") == (False, None)
    assert row(store, id_).revision == 1


def test_a_cancel_and_a_claim_at_once_agree(store: Any) -> None:
    """Either it was queued, and is canceled and never handed out; or it runs, and is canceling."""
    ids = store.submitted(60)
    start = threading.Barrier(2)

    def cancel() -> list[Status]:
        start.wait()
        return [store.predictions.cancel(id_, "default")[1].status for id_ in ids]

    def claim() -> set[str]:
        start.wait()
        return {one.id for at in range(0, 60, 3) for one in store.claimed(ids[at : at + 3])[1]}

    with ThreadPoolExecutor(2) as pool:
        canceling, claiming = pool.submit(cancel), pool.submit(claim)
        statuses, claimed = canceling.result(30), claiming.result(30)

    for id_, status in zip(ids, statuses, strict=True):
        assert status is (Status.CANCELING if id_ in claimed else Status.CANCELED)


# Retry


def failed(store: Any, **fields: Any) -> str:
    (id_,) = store.submitted(**fields)
    claim, _ = store.claimed([id_])
    outcome = Outcome(id=id_, error=ItemError(ItemCode.MODEL_ERROR, "no"))
    store.predictions.finish([Finished(claim=claim, outcomes=[outcome], settled=True)])
    return str(id_)


def test_a_retry_is_the_same_id_from_the_beginning(store: Any) -> None:
    id_ = failed(store, queue_timeout_us=60_000_000)
    (other,) = store.submitted()
    before = row(store, id_)

    changed, after = store.predictions.retry(id_, "default")

    assert changed
    assert (after.status, after.attempt, after.error, after.claim) == (Status.QUEUED, 1, None, None)
    assert after.started_at is after.completed_at is after.predict_us is after.batch_size is None
    assert after.created_at == before.created_at
    assert after.expires_at == after.position + 60_000_000
    hints = store.predictions.oldest_queued(after.line, 10)
    assert [hint.id for _, hint in hints] == [other, id_]  # last in its line
    assert store.predictions.hint(id_) == hints[1][1]
    assert store.predictions.hint(new_id()) is None
    _, rows = store.claimed([id_])
    assert (rows[0].attempt, rows[0].charged, rows[0].losses) == (2, 0, 0)
    assert story(store, id_) == [
        Status.QUEUED, Status.IN_PROGRESS, Status.FAILED, Status.QUEUED, Status.IN_PROGRESS,
    ]  # fmt: skip


def test_a_claim_from_before_a_retry_changes_nothing(store: Any) -> None:
    (id_,) = store.submitted()
    claim, _ = store.claimed([id_])
    store.predictions.cancel(id_, "default")
    store.predictions.give_back(claim, [Returned(id=id_)], True)
    store.predictions.retry(id_, "default")
    store.claimed([id_])

    assert store.finished(claim, [id_]) == set()
    assert row(store, id_).status is Status.IN_PROGRESS


def test_the_story_of_a_row_is_whole_and_legal_whatever_happened(store: Any) -> None:
    """Lost attempts, a cancel and two retries; each step is allowed by the table, and none is forgotten."""
    (id_,) = store.submitted(queue_timeout_us=60_000_000)
    told: list[list[Status]] = []
    for step in ["claim", "give back", "claim", "cancel", "give back", "retry", "cancel", "retry", "claim", "finish"]:
        if step == "claim":
            claim, _ = store.claimed([id_])
        elif step == "give back":
            store.predictions.give_back(claim, [Returned(id=id_)], True)
        elif step == "finish":
            store.finished(claim, [id_])
        else:
            getattr(store.predictions, step)(id_, "default")
        told.append(story(store, id_))

    lengths = [len(one) for one in told]
    assert lengths == list(range(2, 12))
    assert all(shorter == longer[: len(shorter)] for shorter, longer in itertools.pairwise(told))
    steps = told[-1]
    assert all(move in TRANSITIONS for move in itertools.pairwise(steps))
    assert row(store, id_).attempt == 3


def test_of_two_retries_at_once_one_wins(store: Any) -> None:
    id_ = failed(store)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: store.predictions.retry(id_, "default"), range(8)))
    assert [changed for changed, _ in answers].count(True) == 1


# Delete


def test_what_is_deleted_leaves_its_id_alone(store: Any) -> None:
    id_ = failed(store, metadata={"secret": "x"})

    changed, after = store.predictions.delete(id_, "default")

    assert changed
    assert after.deleted_at is not None
    assert (after.status, after.metadata, after.error, after.output) == (Status.FAILED, {}, None, None)
    assert store.predictions.read_input(id_, "default") is None
    assert store.predictions.delete(id_, "default")[0] is False
    assert store.predictions.retry(id_, "default")[0] is False
    assert store.predictions.page("default").rows == []
    assert store.predictions.page("default", status=Status.FAILED).rows == []


@pytest.mark.parametrize("claimed", [False, True])
def test_what_has_not_ended_is_not_deleted(store: Any, claimed: bool) -> None:
    (id_,) = store.submitted()
    if claimed:
        store.claimed([id_])
    assert store.predictions.delete(id_, "default")[0] is False
    assert store.predictions.read_input(id_, "default") is not None


# Progress


def test_progress_is_for_whoever_owns_the_row(store: Any) -> None:
    mine, lost = store.submitted(2)
    claim, _ = store.claimed([mine, lost])
    store.predictions.give_back(claim, [Returned(id=lost)], False)

    store.predictions.progress([(mine, claim, b'{"fraction":0.5,"message":null}'), (lost, claim, b"{}")])

    assert row(store, mine).progress == b'{"fraction":0.5,"message":null}'
    assert row(store, mine).revision == 3
    assert row(store, lost).progress is None
    store.finished(claim, [mine])
    store.predictions.progress([(mine, claim, b"{}")])
    assert row(store, mine).progress == b'{"fraction":0.5,"message":null}'


# Pages


def pages(predictions: Predictions, **wanted: Any) -> list[list[str]]:
    found, after = [], None
    while True:
        page = predictions.page("default", after=after, **wanted)
        found.append([one.id for one in page.rows])
        after = page.after
        if after is None:
            return found


def test_pages_have_every_row_once_newest_first(store: Any) -> None:
    ids = store.submitted(7)
    store.submitted(2, tenant_id="acme")

    assert pages(store.predictions, limit=3) == [ids[6:3:-1], ids[3:0:-1], [ids[0]]]
    assert pages(store.predictions, limit=7) == [ids[::-1]]
    assert pages(store.predictions, limit=100) == [ids[::-1]]


def test_pages_by_status_model_and_version(store: Any) -> None:
    ids = store.submitted(4)
    claim, _ = store.claimed(ids[:2])
    errors = [Outcome(id=id_, error=ItemError(ItemCode.MODEL_ERROR, "")) for id_ in ids[:2]]
    store.predictions.finish([Finished(claim=claim, outcomes=errors, settled=True)])
    (other,) = store.submitted(model="other", version="7")

    assert pages(store.predictions, status=Status.FAILED) == [ids[1::-1]]
    assert pages(store.predictions, status=Status.FAILED, model="other") == [[]]
    assert pages(store.predictions, status=Status.QUEUED, model="digits") == [ids[:1:-1]]
    assert pages(store.predictions, version="7") == [[other]]
    assert pages(store.predictions, model="nothing") == [[]]


def test_a_filter_that_hardly_any_row_passes_reads_a_bounded_part_at_a_time(store: Any) -> None:
    (needle,) = store.submitted(model="needle")
    store.submitted(50)

    found = pages(store.predictions, model="needle", scan=20)

    assert found == [[], [], [needle]]
