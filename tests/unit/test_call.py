"""A micro-batch on its way: who leaves it early, and how reports are numbered."""

from typing import Any

from headway import reports
from headway.errors import ItemCode
from headway.types import Claimed, Outcome
from workers.call import Call


def row(id_: str, limit_s: float | None = None, **fields: Any) -> Claimed:
    limit_us = None if limit_s is None else int(limit_s * 1e6)
    times = {"position": 0, "created_at": 0, "started_at": 0}
    counts = {"attempt": 2, "revision": 1, "charged": 0, "losses": 0, "max_attempts": 3}
    return Claimed(
        id=id_, line="l", size=1, shape=None, body=b"1", execution_timeout_us=limit_us, **(times | counts | fields)
    )


def call(*rows: Claimed) -> Call:
    return Call(1, list(rows), {one.id: "c" for one in rows})


def test_rows_over_their_own_time_fail_with_it_and_the_others_wait_on() -> None:
    three = call(row("a", 0.5), row("b"), row("c", 2))
    assert three.next_limit_s() == 0.5
    assert three.late(0.4) == []
    (late,) = three.late(0.5)
    assert late.error is not None
    assert (late.id, late.error.code, late.batch_size) == ("a", ItemCode.EXECUTION_TIMEOUT, 3)
    assert [one.id for one in three.leave(["a"])] == ["a"]
    assert three.next_limit_s() == 2
    assert not three.alone
    answered = [Outcome(id=id_, output=b"1") for id_ in "abc"]
    assert [one.id for one in three.waiting(answered)] == ["b", "c"]


def test_reports_are_numbered_by_attempt_and_a_second_try_counts_on() -> None:
    two = call(row("a"), row("b"))
    said = two.reports([("a", "output", b"1"), ("b", "progress", b"{}"), ("a", "output", b"2")])
    assert [(one.attempt, one.n, one.kind, one.data) for one in said["a"]] == [
        (2, 1, "output", b"1"),
        (2, 2, "output", b"2"),
    ]
    assert [(one.attempt, one.n) for one in said["b"]] == [(2, 1)]
    again = two.reports([("a", "output", b"1"), ("a", "canceled", b""), ("gone", "output", b"1")])
    assert {id_: [one.n for one in some] for id_, some in again.items()} == {"a": [3]}


def test_what_is_said_beyond_the_most_is_dropped() -> None:
    one = call(row("a"))
    said = one.reports([("a", "output", b"1")] * (reports.MOST + 5))
    assert len(said["a"]) == reports.MOST
