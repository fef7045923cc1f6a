"""The life of predictions, the same on both stores."""

from collections.abc import Callable
from typing import Any

import pytest

from headway import broker
from headway.clock import new_id
from headway.errors import ItemCode, ItemError
from headway.states import TRANSITIONS, Status
from headway.testing import new_prediction
from headway.types import Claimed, Hint, Outcome, Prediction
from storage.reading import Backlog
from storage.returning import Returned
from storage.running import Finished
from storage.submitting import Refused

URGENT = broker.line("digits", "1", 0)


# Submitting and reading


def test_every_field_is_read_back_as_it_was_inserted(store: Any) -> None:
    row = new_prediction(
        tenant_id="ünïcode",
        alias="stable",
        priority=0,
        line=URGENT,
        size=1 << 40,
        shape="3,-1",
        max_attempts=7,
        metadata={"a": 'quote " and \\ and \n', "😀": ""},
        queue_timeout_us=60_000_000,
        body='{"text": "ä\\u0000",\r\n "n": 1e400}'.encode(),
    )
    (position,) = store.predictions.insert([row])

    read = store.predictions.read([row.id, new_id()])

    assert read == {
        row.id: Prediction(
            id=row.id,
            tenant_id="ünïcode",
            model="digits",
            version="1",
            alias="stable",
            line=URGENT,
            position=position,
            priority=0,
            status=Status.QUEUED,
            revision=1,
            attempt=0,
            max_attempts=7,
            claim=None,
            metadata=row.metadata,
            output=None,
            error=None,
            created_at=position,
            started_at=None,
            completed_at=None,
            expires_at=position + 60_000_000,
            predict_us=None,
            batch_size=None,
        )
    }
    assert store.predictions.read_input(row.id, row.tenant_id) == (row.body, None, None)
    assert store.predictions.read_input(new_id(), "default") is None
    assert abs(position - store.predictions.now()) < 30_000_000


def test_positions_rise_in_the_order_of_submission_whatever_the_ids(store: Any) -> None:
    rows = [new_prediction() for _ in range(150)]
    rows.reverse()  # ids fall

    positions = store.predictions.insert(rows)

    assert positions == sorted(set(positions))
    hints = store.predictions.oldest_queued(rows[0].line, 1000)
    assert [hint.id for _, hint in hints] == [row.id for row in rows]


def test_a_group_that_is_sent_again_keeps_its_rows_and_positions(store: Any) -> None:
    rows = [new_prediction() for _ in range(5)]
    first = store.predictions.insert(rows)

    again = store.predictions.insert([*rows, new_prediction()])

    assert again[:5] == first
    assert store.predictions.count_by_status() == {Status.QUEUED: 6}


@pytest.mark.parametrize("bad", [{"size": 1 << 63}, {"tenant_id": "\ud800"}, {"tenant_id": "\0"}], ids=str)
def test_a_row_that_is_refused_for_its_data_stands_alone(store: Any, bad: dict[str, Any]) -> None:
    if bad == {"tenant_id": "\0"} and store.database.dialect == "sqlite":
        pytest.skip("SQLite stores it")
    rows = [new_prediction(**bad) if n == 13 else new_prediction() for n in range(40)]

    answers = store.predictions.insert(rows)

    assert [n for n, answer in enumerate(answers) if isinstance(answer, Refused)] == [13]
    assert answers[13].message
    assert store.predictions.count_by_status() == {Status.QUEUED: 39}
    assert store.count("inputs") == 39


def test_an_id_that_is_no_uuid_names_no_row(store: Any) -> None:
    (good,) = store.submitted()
    bad = ["", "x", good.upper() + "'", "{" + good + "}", "\0"]

    assert store.predictions.read(bad) == {}
    assert store.predictions.read_input("x", "default") is None
    assert store.predictions.cancel_queued(bad, "default") == {}
    claim, rows = store.claimed([*bad, good])
    assert [row.id for row in rows] == [good]
    assert not store.predictions.give_back(claim, [Returned(id=id_) for id_ in bad], False)
    assert store.finished(claim, [*bad, good]) == {good}


# Claims


def test_a_claim_hands_over_all_that_a_worker_needs_oldest_first(store: Any) -> None:
    ids = store.submitted(3, queue_timeout_us=60_000_000, shape="3", size=77)

    claim, rows = store.claimed(list(reversed(ids)))

    assert [row.id for row in rows] == ids
    read = store.predictions.read(ids)
    for row in rows:
        assert row == Claimed(
            id=row.id,
            line=store.lines[1],
            size=77,
            shape="3",
            position=read[row.id].position,
            created_at=read[row.id].created_at,
            started_at=read[row.id].started_at,
            attempt=1,
            revision=2,
            charged=0,
            losses=0,
            max_attempts=3,
            execution_timeout_us=None,
            body=b'{"x": [1]}',
        )
        assert read[row.id].status is Status.IN_PROGRESS
        assert read[row.id].claim == claim
        assert read[row.id].expires_at is None
    ((held, of),) = store.workers.claims("w1").items()
    assert (held, sorted(of)) == (claim, sorted(ids))


def test_a_second_claim_of_the_same_row_gets_nothing(store: Any) -> None:
    ids = store.submitted(2)
    store.claimed(ids[:1])

    _, rows = store.claimed(ids)

    assert [row.id for row in rows] == ids[1:]


@pytest.mark.parametrize("worker", ["dead", "unknown", "retired"])
def test_a_claim_by_a_worker_that_is_not_live_gets_nothing(store: Any, worker: str) -> None:
    ids = store.submitted(2)
    for id_ in ("dead", "retired"):
        store.workers.register(id_, "cpu", "host", 2)
    store.workers.mark_dead("dead")
    store.workers.retire("retired")

    _, rows = store.claimed(ids, worker)

    assert rows == []
    assert store.count("claims") == 0
    assert store.predictions.count_by_status() == {Status.QUEUED: 2}


def test_a_claim_takes_only_rows_of_its_version_that_have_not_expired(store: Any) -> None:
    (other,) = store.submitted(model="other", line=broker.line("other", "1", 5))
    (late,) = store.submitted(queue_timeout_us=-1_000_000)
    (good,) = store.submitted()

    _, rows = store.claimed([other, late, good])

    assert [row.id for row in rows] == [good]


# Finishing


def test_outputs_and_errors_are_read_back_as_they_were_finished(store: Any) -> None:
    ids = store.submitted(3)
    claim, rows = store.claimed(ids)
    output = '{"ä": [1.0, 2e308, "\\u0000"]}  '.encode()
    error = ItemError(ItemCode.MODEL_ERROR, "it broke: ä")
    outcomes = [
        Outcome(id=ids[0], output=output, predict_us=1234, batch_size=3),
        Outcome(id=ids[1], error=error, predict_us=5, batch_size=3),
    ]

    ended = store.predictions.finish([Finished(claim=claim, outcomes=outcomes, settled=False)])

    read = store.predictions.read(ids)
    assert ended.keys() == set(ids[:2])
    for id_, status, out, err in ((ids[0], Status.SUCCEEDED, output, None), (ids[1], Status.FAILED, None, error)):
        for seen in (read[id_], ended[id_]):
            assert (seen.status, seen.output, seen.error, seen.claim) == (status, out, err, claim)
            assert (seen.revision, seen.attempt, seen.batch_size) == (3, 1, 3)
            assert seen.started_at == rows[0].started_at
            assert seen.completed_at == read[id_].completed_at
        assert read[id_].completed_at >= rows[0].started_at
    assert (read[ids[0]].predict_us, read[ids[1]].predict_us) == (1234, 5)
    assert read[ids[2]].status is Status.IN_PROGRESS
    assert store.workers.claims("w1") == {claim: [ids[2]]}


def test_several_claims_are_finished_and_settled_in_one_call(store: Any) -> None:
    ids = store.submitted(200)
    claims = [store.claimed(ids[n::4])[0] for n in range(4)]
    finished = [
        Finished(claim=claim, outcomes=[Outcome(id=id_, output=b"1") for id_ in ids[n::4]], settled=n != 3)
        for n, claim in enumerate(claims)
    ]

    ended = store.predictions.finish(finished)

    assert ended.keys() == set(ids)
    assert store.workers.claims("w1") == {claims[3]: []}
    assert not store.predictions.give_back(claims[3], [], True)
    assert store.count("claims") == 0


def test_a_finish_under_an_old_claim_changes_nothing(store: Any) -> None:
    ids = store.submitted(2)
    old, _ = store.claimed(ids)
    store.predictions.give_back(old, [Returned(id=id_) for id_ in ids], True)
    new, _ = store.claimed(ids)
    before = store.predictions.read(ids)

    assert store.finished(old, ids) == set()

    assert store.predictions.read(ids) == before
    assert store.finished(new, ids) == set(ids)


def test_an_outcome_that_the_store_refuses_becomes_output_invalid(store: Any) -> None:
    ids = store.submitted(7)
    claim, _ = store.claimed(ids)
    bad = "\0" if store.database.dialect == "postgresql" else "\ud800"
    outcomes = [Outcome(id=id_, output=b"1") for id_ in ids]
    outcomes[4] = Outcome(id=ids[4], error=ItemError(ItemCode.MODEL_ERROR, bad), batch_size=7)

    ended = store.predictions.finish([Finished(claim=claim, outcomes=outcomes, settled=True)])

    assert ended.keys() == set(ids)
    assert {id_ for id_ in ids if ended[id_].status is Status.FAILED} == {ids[4]}
    error = store.predictions.read(ids)[ids[4]].error
    assert error == ended[ids[4]].error
    assert error.code is ItemCode.OUTPUT_INVALID
    assert store.count("claims") == 0


def test_only_failures_of_a_batch_without_any_output_are_stored(store: Any) -> None:
    ids = store.submitted(2)
    claim, _ = store.claimed(ids)
    outcomes = [Outcome(id=id_, error=ItemError(ItemCode.OUT_OF_MEMORY, "")) for id_ in ids]

    ended = store.predictions.finish([Finished(claim=claim, outcomes=outcomes, settled=True)])

    assert {one.status for one in ended.values()} == {Status.FAILED}


# Letting go


def test_giving_back_keeps_the_position_and_forgets_the_claim(store: Any) -> None:
    ids = store.submitted(3, priority=2, line=URGENT, shape="1", size=4)
    claim, rows = store.claimed(ids)

    given = store.predictions.give_back(claim, [Returned(id=id_, losses=2) for id_ in ids], True)

    assert sorted(given.queued, key=lambda row: row[2].id) == [
        (URGENT, 2, Hint(id=row.id, size=4, shape="1", position=row.position)) for row in rows
    ]
    assert given.ended == {}
    for row in store.predictions.read(ids).values():
        assert (row.status, row.claim, row.started_at, row.attempt, row.revision) == (Status.QUEUED, None, None, 1, 3)
    assert store.count("claims") == 0
    _, again = store.claimed(ids)
    assert {(row.attempt, row.losses, row.charged) for row in again} == {(2, 2, 0)}


def test_losses_are_raised_and_never_lowered(store: Any) -> None:
    ids = store.submitted()
    for losses, expected in ((1, 1), (None, 1), (2, 2), (1, 2)):
        claim, _ = store.claimed(ids)
        store.predictions.give_back(claim, [Returned(id=ids[0], losses=losses)], True)
        claim, (row,) = store.claimed(ids)
        assert row.losses == expected
        store.predictions.give_back(claim, [Returned(id=ids[0])], True)


def test_charges_that_reach_max_attempts_fail_the_row(store: Any) -> None:
    ids = store.submitted(max_attempts=2)
    returned = [Returned(id=ids[0], charge=True, code=ItemCode.EXECUTION_TIMEOUT, message="too\0slow")]
    first, _ = store.claimed(ids)
    assert store.predictions.give_back(first, returned, True).queued
    second, (row,) = store.claimed(ids)
    assert (row.charged, row.attempt) == (1, 2)

    given = store.predictions.give_back(second, returned, True)

    ended = given.ended[ids[0]]
    assert given.queued == []
    assert (ended.status, ended.claim, ended.attempt) == (Status.FAILED, second, 2)
    assert ended.error == ItemError(ItemCode.EXECUTION_TIMEOUT, "too�slow")
    read = store.predictions.read(ids)[ids[0]]
    assert (read.status, read.error, read.completed_at) == (Status.FAILED, ended.error, ended.completed_at)


def test_a_row_being_canceled_is_canceled_when_it_is_given_back(store: Any) -> None:
    ids = store.submitted(2)
    claim, _ = store.claimed(ids)
    store.execute(f"UPDATE predictions SET status = 2 WHERE id = '{ids[0]}'")

    given = store.predictions.give_back(claim, [Returned(id=id_, charge=True) for id_ in ids], True)

    assert {id_: ended.status for id_, ended in given.ended.items()} == {ids[0]: Status.CANCELED}
    assert [hint.id for _, _, hint in given.queued] == [ids[1]]


def test_a_claim_said_to_be_settled_stays_while_rows_of_it_are_left(store: Any) -> None:
    ids = store.submitted(2)
    claim, _ = store.claimed(ids)

    store.predictions.give_back(claim, [Returned(id=ids[0])], True)

    assert store.workers.claims("w1") == {claim: [ids[1]]}


def test_what_dead_and_vanished_workers_own_is_given_back(store: Any) -> None:
    ids = store.submitted(40)
    for worker in ("dead", "gone"):
        store.workers.register(worker, "cpu", "host", 2)
    store.claimed(ids[:30], "dead")
    alone, _ = store.claimed(ids[30:31], "gone")
    done, _ = store.claimed(ids[31:35], "dead")
    kept, _ = store.claimed(ids[35:])
    store.finished(done, ids[31:35], settled=False)
    store.workers.mark_dead("dead")
    store.workers.retire("gone")

    queued = []
    while given := store.predictions.give_back_dead(limit=20):
        queued += given.queued
        assert given.ended == {}

    assert sorted(hint.id for _, _, hint in queued) == ids[:31]
    assert store.workers.claims("w1") == {kept: ids[35:]}
    assert store.count("claims") == 1
    _, rows = store.claimed(ids)
    assert {row.id: (row.losses, row.charged) for row in rows} == {
        **dict.fromkeys(ids[:30], (1, 0)),
        ids[30]: (1, 1),
    }
    assert store.finished(alone, ids[30:31]) == set()


def test_a_row_that_kills_its_worker_alone_fails_in_the_end(store: Any) -> None:
    ids = store.submitted(max_attempts=3)
    ended: dict[str, Any] = {}
    for n in range(3):
        store.workers.register(f"mortal{n}", "cpu", "host", 2)
        store.claimed(ids, f"mortal{n}")
        store.workers.mark_dead(f"mortal{n}")
        ended = store.predictions.give_back_dead().ended
    assert ended[ids[0]].status is Status.FAILED
    assert ended[ids[0]].error.code is ItemCode.WORKER_LOST


def test_only_queued_rows_are_canceled(store: Any) -> None:
    ids = store.submitted(3)
    store.claimed(ids[:1])

    canceled = store.predictions.cancel_queued(ids[:2], "default")

    assert {id_: ended.status for id_, ended in canceled.items()} == {ids[1]: Status.CANCELED}
    read = store.predictions.read(ids)
    assert [read[id_].status for id_ in ids] == [Status.IN_PROGRESS, Status.CANCELED, Status.QUEUED]
    assert read[ids[1]].completed_at == canceled[ids[1]].completed_at
    assert store.claimed(ids[1:2])[1] == []


def test_queued_rows_expire_when_their_time_has_passed(store: Any) -> None:
    late = store.submitted(5, queue_timeout_us=-1_000_000)
    store.submitted(5, queue_timeout_us=60_000_000)
    store.submitted(5)

    ended = store.predictions.expire(limit=3)
    assert len(ended) == 3
    ended |= store.predictions.expire()

    assert {id_: one.status for id_, one in ended.items()} == dict.fromkeys(late, Status.EXPIRED)
    assert store.predictions.expire() == {}
    assert store.predictions.count_by_status() == {Status.EXPIRED: 5, Status.QUEUED: 10}


# The queue as the janitor and the API see it


def test_the_oldest_of_a_line_come_in_order_of_position_and_none_is_expired(store: Any) -> None:
    store.submitted(2, line=URGENT)
    store.submitted(2, queue_timeout_us=-1_000_000)
    ids = store.submitted(6)
    read = store.predictions.read(ids)
    store.claimed(ids[1:2])
    line = store.lines[1]

    assert [hint.id for _, hint in store.predictions.oldest_queued(line, 3)] == [ids[0], ids[2], ids[3]]
    before = read[ids[3]].position
    assert store.predictions.oldest_queued(line, 10, before=before) == [
        (5, Hint(id=id_, size=9, shape=None, position=read[id_].position)) for id_ in (ids[0], ids[2])
    ]


def test_of_some_lines_those_are_told_that_have_a_row_before_a_position(store: Any) -> None:
    (first, second) = store.submitted(2)
    store.submitted(1, line=URGENT)
    position = store.predictions.read([first])[first].position
    urgent, normal, bulk = store.lines
    waiting = store.predictions.waiting

    assert waiting({urgent: 1 << 62, normal: 1 << 62, bulk: 1 << 62}) == {urgent, normal}
    assert waiting({urgent: 0, normal: position}) == set()
    assert waiting({normal: position + 1}) == {normal}
    store.claimed([first])
    assert waiting({normal: position + 1}) == set()
    assert waiting({}) == set()
    assert second in store.predictions.read([second])


def test_a_depth_is_counted_over_lines_and_no_further_than_asked(store: Any) -> None:
    ids = store.submitted(5)
    store.submitted(2, line=URGENT)
    store.claimed(ids[:1])
    assert store.predictions.depth(store.lines, 100) == 6
    assert store.predictions.depth(store.lines, 3) == 3
    assert store.predictions.depth(store.lines[2:], 3) == 0


def test_the_first_positions_of_a_line_rise_and_are_of_what_waits(store: Any) -> None:
    ids = store.submitted(5)
    read = store.predictions.read(ids)
    store.claimed(ids[1:2])
    line = store.lines[1]
    assert store.predictions.first_positions(line, 10) == [read[ids[n]].position for n in (0, 2, 3, 4)]
    assert store.predictions.first_positions(line, 2) == [read[ids[n]].position for n in (0, 2)]
    assert store.predictions.first_positions(store.lines[2], 2) == []


def test_the_backlog_counts_each_line(store: Any) -> None:
    ids = store.submitted(4)
    store.submitted(2, line=URGENT, priority=0)
    store.claimed(ids[:1])
    read = store.predictions.read(ids)

    backlog = store.predictions.backlog(store.lines)

    assert backlog[store.lines[1]] == Backlog(3, read[ids[1]].position)
    assert backlog[URGENT].depth == 2
    assert backlog[store.lines[2]] == Backlog(0, None)
    assert store.predictions.backlog([]) == {}


def test_a_deep_line_is_counted_as_far_as_asked_and_its_oldest_is_known(store: Any) -> None:
    ids = store.submitted(5)
    store.submitted(2, line=URGENT, priority=0)

    backlog = store.predictions.backlog(store.lines, at_most=3)

    assert backlog[store.lines[1]] == Backlog(3, store.predictions.read(ids[:1])[ids[0]].position)
    assert backlog[URGENT].depth == 2


# The state machine


def reach(store: Any, status: Status) -> tuple[str, str]:
    """(id, claim) of a row that came to this status by the store's own verbs."""
    (id_,) = store.submitted(queue_timeout_us=-1 if status is Status.EXPIRED else None)
    if status is Status.QUEUED:
        return id_, new_id()
    if status is Status.CANCELED:
        store.predictions.cancel_queued([id_], "default")
        return id_, new_id()
    if status is Status.EXPIRED:
        store.predictions.expire()
        return id_, new_id()
    claim, _ = store.claimed([id_])
    if status is Status.CANCELING:
        store.predictions.cancel(id_, "default")
    if status in (Status.SUCCEEDED, Status.FAILED):
        error = ItemError(ItemCode.MODEL_ERROR, "") if status is Status.FAILED else None
        outcome = Outcome(id=id_, error=error, output=None if error else b"1")
        store.predictions.finish([Finished(claim=claim, outcomes=[outcome], settled=False)])
    return id_, claim


VERBS: dict[str, Callable[[Any, str, str], object]] = {
    "claim": lambda store, id_, claim: store.claimed([id_]),
    "succeed": lambda store, id_, claim: store.finished(claim, [id_]),
    "fail": lambda store, id_, claim: store.predictions.finish(
        [
            Finished(
                claim=claim,
                outcomes=[Outcome(id=id_, error=ItemError(ItemCode.MODEL_ERROR, ""))],
                settled=False,
            )
        ]
    ),
    "give back": lambda store, id_, claim: store.predictions.give_back(claim, [Returned(id=id_)], True),
    "charge": lambda store, id_, claim: [
        store.execute("UPDATE predictions SET charged = 2"),
        store.predictions.give_back(claim, [Returned(id=id_, charge=True)], True),
    ],
    "bury": lambda store, id_, claim: [store.workers.mark_dead("w1"), store.predictions.give_back_dead()],
    "cancel queued": lambda store, id_, claim: store.predictions.cancel_queued([id_], "default"),
    "cancel": lambda store, id_, claim: store.predictions.cancel(id_, "default"),
    "retry": lambda store, id_, claim: store.predictions.retry(id_, "default"),
    "expire": lambda store, id_, claim: store.predictions.expire(),
    "insert": lambda store, id_, claim: store.predictions.insert([new_prediction(id=id_)]),
}


@pytest.mark.parametrize("verb", VERBS)
def test_rows_move_only_as_the_table_of_transitions_says(store: Any, verb: str) -> None:
    reached = {status: reach(store, status) for status in Status}
    before = store.predictions.read([id_ for id_, _ in reached.values()])
    assert [before[id_].status for id_, _ in reached.values()] == list(Status)

    for id_, claim in reached.values():
        VERBS[verb](store, id_, claim)

    after = store.predictions.read(list(before))
    for id_, row in before.items():
        if after[id_].status is row.status:
            assert after[id_] == row
        else:
            assert (row.status, after[id_].status) in TRANSITIONS
            assert row.status.terminal == (verb == "retry")
            assert after[id_].revision == row.revision + 1
            assert (after[id_].completed_at is not None) == after[id_].status.terminal
