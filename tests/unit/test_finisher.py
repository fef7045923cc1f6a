"""Results of several calls go to SQL together, and come back apart."""

from typing import Any

from headway.notices import Ended
from headway.states import Status
from headway.types import Outcome
from storage.running import Finished
from workers.finisher import Settled


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
