"""Results of several calls go to SQL together, and come back apart."""

from collections.abc import Sequence
from typing import Any, cast

import pytest

from headway.notices import Ended
from headway.states import Status
from headway.testing import wait_until
from headway.types import Outcome
from storage.predictions import Predictions
from storage.running import Finished
from workers import finisher
from workers.finisher import Finisher, Settled
from workers.publisher import Publisher


def ended(claim: str) -> Ended:
    return Ended(
        status=Status.SUCCEEDED,
        revision=3,
        claim=claim,
        attempt=1,
        started_at=1,
        completed_at=2,
        predict_us=1,
        batch_size=1,
        output=b"1",
        output_omitted=False,
        error=None,
    )


def settled(claim: str, *ids: str) -> Settled:
    outcomes = [Outcome(id=id_, output=b"1") for id_ in ids]
    return Settled([Finished(claim=claim, outcomes=outcomes, settled=True)], done=lambda _: None)


def test_a_call_is_told_of_its_own_ends_and_of_no_others_that_were_written_with_them() -> None:
    group: dict[str, Any] = {"a": ended("one"), "b": ended("one"), "c": ended("two")}
    assert settled("one", "a", "b").among(group).keys() == {"a", "b"}
    assert settled("two", "c").among(group).keys() == {"c"}


def test_what_another_claim_has_ended_is_not_ones_own() -> None:
    assert settled("late", "a").among({"a": ended("one")}) == {}
    assert settled("one", "lost").among({"a": ended("one")}) == {}


class Written:
    """Stands for SQL and for who tells of it: notes the ids of each transaction."""

    def __init__(self) -> None:
        self.transactions: list[list[str]] = []

    def finish(self, finished: Sequence[Finished]) -> dict[str, Ended]:
        self.transactions.append([outcome.id for one in finished for outcome in one.outcomes])
        return {}

    def ended(self, ended: dict[str, Ended]) -> None:
        pass


def part_of_a_file(claim: str, *ids: str, last: bool) -> Settled:
    outcomes = [Outcome(id=id_, output=b"1") for id_ in ids]
    return Settled([Finished(claim=claim, outcomes=outcomes, settled=last)], done=lambda _: None, bulk=True)


def test_calls_of_one_claim_of_a_files_items_are_written_together_and_nobody_else_waits_for_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(finisher, "_REST_S", 30.0)
    written = Written()
    writing = Finisher(cast(Predictions, written), cast(Publisher, written))
    writing.put(part_of_a_file("one", "a", "b", last=False))
    writing.put(settled("two", "urgent"))
    wait_until(lambda: written.transactions == [["urgent"]], 10.0, "the urgent one is written")
    writing.put(part_of_a_file("one", "c", last=True))
    assert writing.close(10.0)
    assert written.transactions == [["urgent"], ["a", "b", "c"]]
