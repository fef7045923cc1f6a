"""Which version a submission goes to, and what a prediction looks like."""

import json
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.problems import TABLE, Problem
from api.registry import ModelView, Target
from api.rendering import accepted, accepted_json, after, ended_json, etag
from headway.clock import new_id, rfc3339
from headway.errors import ItemCode, ItemError
from headway.manifest import parse
from headway.notices import Ended
from headway.registry import State, Version
from headway.rendering import prediction_json, time_of
from headway.states import Status
from headway.testing import new_prediction
from headway.types import NewPrediction


def version(name: str, state: State = "ready", *, age: int = 0, **manifest: Mapping[str, Any]) -> Version:
    return Version(
        model="m",
        version=name,
        state=state,
        reason=None,
        framework="python",
        path="",
        sha256="",
        manifest=parse(manifest),
        created_at=-age,
        loaded_at=None,
        placements=[],
    )


@pytest.mark.parametrize(
    ("versions", "latest"),
    [
        ([version("2"), version("10"), version("9")], "10"),
        ([version("1"), version("b", age=1), version("a", age=5)], "1"),
        ([version("b", age=1), version("a", age=5)], "b"),
        ([version("1"), version("2", "loading")], "1"),
        ([version("1", "loading"), version("2", "failed")], "1"),
        ([version("1", "unloaded"), version("2", "loading")], "2"),
        ([version("1", "failed"), version("2", "failed")], "2"),
    ],
)
def test_the_latest_is_the_highest_number_that_is_ready(versions: list[Version], latest: str) -> None:
    assert ModelView.of("m", versions).latest == latest


def test_a_size_is_measured_as_the_manifest_says() -> None:
    free = {"x": {"dtype": "float32", "shape": [-1, 2]}}
    assert Target(version("1")).measure([1, 2], b"[1,  2]", "/input") == (7, None)
    assert Target(version("1", inputs=free)).measure([[1, 2]] * 3, b"...", "/input") == (6, "3")
    by_count = version("1", inputs={"x": {"dtype": "float32", "shape": [2]}})
    assert Target(by_count).measure([1, 2], b"...", "/input") == (1, None)
    by_bytes = version("1", inputs=free, batching={"size": "bytes"})
    assert Target(by_bytes).measure([[1, 2]], b"...", "/input") == (3, "1")


def test_an_input_that_does_not_fit_is_refused_with_its_place_in_the_body() -> None:
    typed = Target(version("1", inputs={"x": {"dtype": "float32", "shape": [2]}}))
    with pytest.raises(Problem) as caught:
        typed.measure({"x": [1, "2"]}, b"...", "/instances/3")
    assert (caught.value.code, caught.value.errors[0]["pointer"]) == ("validation_failed", "/instances/3/x/1")


def row() -> NewPrediction:
    return NewPrediction(
        id=new_id(),
        tenant_id="default",
        model="m",
        version="1",
        alias="stable",
        line="headway:m@1:1",
        priority=5,
        size=1,
        shape=None,
        max_attempts=3,
        metadata={"k": "v"},
        body=b"1",
    )


def test_a_prediction_shows_what_is_known_and_null_for_the_rest() -> None:
    queued = accepted(row(), 1_700_000_000_000_001)
    shown = json.loads(prediction_json(queued, ""))
    assert shown["status"] == "queued"
    assert shown["created_at"] == "2023-11-14T22:13:20.000001Z"
    assert shown["started_at"] is shown["output"] is shown["error"] is None
    assert shown["metrics"] == {"queue_seconds": None, "predict_seconds": None, "batch_size": None}
    path = f"/v1/predictions/{queued.id}"
    verbs = ("cancel", "events", "output")
    assert shown["urls"] == {"get": path, **{verb: f"{path}/{verb}" for verb in verbs}}
    assert shown["progress"] is None
    assert "input" not in shown


def ended(**changes: Any) -> Ended:
    success = Ended(
        status=Status.SUCCEEDED,
        revision=3,
        claim="c",
        attempt=1,
        started_at=1_700_000_000_500_000,
        completed_at=1_700_000_001_000_000,
        predict_us=250_000,
        batch_size=31,
        output=b'{"a": [1.10]}',
        output_omitted=False,
        error=None,
    )
    return msgspec.structs.replace(success, **changes)


def test_an_output_is_passed_on_byte_for_byte() -> None:
    done = after(accepted(row(), 1_700_000_000_000_000), ended())
    shown = prediction_json(done, "https://example.com", b"[ 1 ]")
    assert b'"output":{"a": [1.10]}' in shown
    assert b'"input":[ 1 ]' in shown
    assert json.loads(shown)["metrics"] == {"queue_seconds": 0.5, "predict_seconds": 0.25, "batch_size": 31}
    assert json.loads(shown)["urls"]["get"].startswith("https://example.com/v1/")
    assert etag(done) == b"3-c"


def test_an_error_says_whether_the_same_input_may_be_sent_again() -> None:
    lost = ItemError(ItemCode.WORKER_LOST, "gone")
    failed = after(accepted(row(), 1), ended(status=Status.FAILED, output=None, error=lost))
    assert json.loads(prediction_json(failed, ""))["error"] == {
        "code": "worker_lost",
        "message": "gone",
        "retryable": True,
    }


@pytest.mark.parametrize("us", [0, 999_999, 1_000_000, 1_700_000_000_123_456])
def test_times_are_those_of_the_clock(us: int) -> None:
    assert time_of(us) == rfc3339(us)


def test_every_problem_code_names_a_client_or_server_error() -> None:
    assert all(400 <= status < 600 for status, _, _ in TABLE.values())


_names = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_times = st.integers(1, 1 << 52)
_created = st.builds(
    new_prediction,
    model=_names,
    alias=st.none() | _names,
    priority=st.integers(0, 9),
    max_attempts=st.integers(1, 100),
    metadata=st.dictionaries(_names, _names, max_size=2),
    queue_timeout_us=st.none() | st.integers(1, 10**12),
    webhook=st.none() | st.just("https://example.com"),
)
_ended = st.builds(
    Ended,
    status=st.sampled_from([Status.SUCCEEDED, Status.FAILED, Status.CANCELED]),
    revision=st.integers(2, 1 << 31),
    claim=st.none() | st.just("01890000-0000-7000-8000-000000000000"),
    attempt=st.integers(0, 100),
    started_at=st.none() | _times,
    completed_at=_times,
    predict_us=st.none() | st.integers(0, 10**10),
    batch_size=st.none() | st.integers(1, 4096),
    output=st.none() | st.sampled_from([b"null", b'"100 %b"', b"[1.5,2e-7]"]),
    output_omitted=st.just(False),
    error=st.none() | st.builds(ItemError, st.sampled_from(ItemCode), _names),
)


@given(_created, _times, _ended, st.sampled_from(["", "https://example.com/100%25"]))
def test_what_is_filled_into_a_form_reads_as_if_it_had_been_written_out(
    row: NewPrediction, position: int, ended: Ended, public_url: str
) -> None:
    first = accepted(row, position)
    assert accepted_json(row, position, public_url) == prediction_json(first, public_url)
    assert ended_json(row, position, ended, public_url) == prediction_json(after(first, ended), public_url)
