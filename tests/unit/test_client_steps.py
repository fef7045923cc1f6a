"""The client without any I/O: what it asks for, step by step, when it is told this or that."""

import datetime
import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.client.backoff import delay_s, retry_after_s
from headway.client.errors import ApiError, Timeout, Unreachable
from headway.client.records import Emitted, Prediction, Progressed, Transition
from headway.client.steps import Answer, Came, Give, Lost, Pause, Read, Send, Step, Verb
from headway.client.stream import Message, Parser
from headway.client.verbs import Verbs

NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
BUSY = Answer(503, {"retry-after": "3"}, b"")
LOST = Lost("cut")


class Time:
    """A clock that goes on when a verb pauses."""

    now = 100.0

    def verbs(self, timeout_s: float = 60, retries: int = 3) -> Verbs:
        return Verbs(timeout_s, retries, clock=lambda: self.now, chance=lambda: 0.0)

    def run(self, verb: Verb[Any], *answers: Came) -> tuple[Any, list[Step]]:
        """What the verb ends with, and its steps; `answers` are told to those that want one, in turn."""
        left, steps = list(answers), []
        came: Came = None
        while True:
            try:
                steps.append(verb.send(came))
            except StopIteration as end:
                assert not left
                return end.value, steps
            came = None
            if isinstance(step := steps[-1], Pause):
                self.now += step.seconds
            elif not isinstance(step, Give):
                came = left.pop(0)


@pytest.fixture
def time() -> Time:
    return Time()


def shown(status: str, **fields: object) -> Answer:
    body = {"id": "p1", "model": "m", "version": "1", "revision": 1, "created_at": "2026-01-02T03:04:05Z", **fields}
    return Answer(200, {}, json.dumps({**body, "status": status, "a_field_to_come": [1]}).encode())


def pauses(steps: list[Step]) -> list[float]:
    return [step.seconds for step in steps if isinstance(step, Pause)]


def sent(steps: list[Step]) -> list[Send]:
    return [step for step in steps if isinstance(step, Send)]


def test_a_submission_is_repeated_byte_by_byte_under_one_key(time: Time) -> None:
    verb = time.verbs().submit("m", {"b": 1, "a": [2]}, {"priority": 0, "alias": None})
    prediction, steps = time.run(verb, LOST, BUSY, shown("queued"))
    first, second, third = sent(steps)
    assert first.body == second.body == third.body == b'{"input":{"b":1,"a":[2]},"priority":0}'
    assert first.headers["idempotency-key"] == third.headers["idempotency-key"]
    assert isinstance(prediction, Prediction)
    assert pauses(steps) == [0.125, 3.25]

    _, others = time.run(time.verbs().submit("m", 1, {}), shown("queued"))
    assert sent(others)[0].headers["idempotency-key"] != first.headers["idempotency-key"]


def test_retries_are_counted_and_then_the_last_trouble_is_told(time: Time) -> None:
    with pytest.raises(Unreachable, match="cut"):
        time.run(time.verbs(retries=2).get("p1"), BUSY, LOST, LOST)
    with pytest.raises(ApiError, match="503"):
        time.run(time.verbs(retries=1).get("p1"), LOST, BUSY)


def test_nothing_is_tried_after_the_callers_time(time: Time) -> None:
    with pytest.raises(ApiError):
        time.run(time.verbs(timeout_s=3.1).get("p1"), BUSY)
    with pytest.raises(Timeout, match="cut"):
        time.run(time.verbs(timeout_s=1).get("p1"), *[LOST] * 4)
    assert time.now < 102


def test_waiting_is_by_long_polls_within_the_callers_time_and_its_last_second_is_polled(time: Time) -> None:
    verb = time.verbs().wait("p1", None, 45.5)
    step = next(verb)
    for wait_s, passed in [(30, 30.0), (15, 15.0)]:
        assert isinstance(step, Send)
        assert step.headers == {"prefer": f"wait={wait_s}"}
        assert step.silence_s > wait_s
        time.now += passed
        step = verb.send(shown("in_progress"))
    with pytest.raises(Timeout, match="still in_progress") as caught:
        _poll(time, verb, step)
    assert caught.value.prediction is not None
    assert 145.5 <= time.now < 145.7


def _poll(time: Time, verb: Verb[Any], step: Step) -> None:
    """Until the verb ends, every read is answered at once."""
    while True:
        assert isinstance(step, Send)
        assert step.headers == {}
        assert verb.send(shown("in_progress")) == Pause(0.1)
        time.now += 0.1
        step = next(verb)


def test_a_server_that_does_not_wait_is_not_asked_in_a_loop(time: Time) -> None:
    prediction, steps = time.run(
        time.verbs().wait("p1", None, None), shown("queued"), shown("queued"), shown("succeeded", output=[1])
    )
    assert prediction.output == [1]
    assert pauses(steps) == [1.0, 1.0]


def test_the_second_answer_to_delete_and_retry_is_understood_as_the_first(time: Time) -> None:
    gone = Answer(410, {}, json.dumps({"code": "prediction_purged", "detail": "Deleted."}).encode())
    conflict = Answer(409, {}, json.dumps({"code": "not_retryable", "detail": "It runs."}).encode())

    time.run(time.verbs().delete("p1"), LOST, gone)
    prediction, steps = time.run(time.verbs().retry("p1"), LOST, conflict, shown("in_progress"))
    assert prediction.status == "in_progress"
    assert [step.method for step in sent(steps)] == ["POST", "POST", "GET"]

    with pytest.raises(ApiError, match="prediction_purged"):
        time.run(time.verbs().delete("p1"), gone)
    with pytest.raises(ApiError, match="not_retryable"):
        time.run(time.verbs().retry("p1"), conflict)


def test_a_list_is_read_page_by_page_and_no_further_than_asked(time: Time) -> None:
    def page(count: int, last_id: str | None) -> Answer:
        body = json.loads(shown("queued").body)
        return Answer(
            200, {}, json.dumps({"data": [body] * count, "has_more": last_id is not None, "last_id": last_id}).encode()
        )

    _, steps = time.run(time.verbs().list({"status": "queued", "model": None}, None), page(100, "x"), page(7, None))
    assert [step.query for step in sent(steps)] == [
        {"status": "queued", "limit": "100"},
        {"status": "queued", "limit": "100", "after": "x"},
    ]
    assert sum(isinstance(step, Give) for step in steps) == 107

    _, steps = time.run(time.verbs().list({}, 120), page(100, "x"), page(20, "y"))
    assert [step.query["limit"] for step in sent(steps)] == ["100", "20"]
    assert time.run(time.verbs().list({}, 0)) == (None, [])


def test_what_is_no_answer_of_ours_is_said_so(time: Time) -> None:
    with pytest.raises(ApiError, match="no answer of a Headway server"):
        time.run(time.verbs().get("p1"), Answer(200, {}, b"<html>"))
    with pytest.raises(ApiError, match=r"Bad Request \[400 unknown\]"):
        time.run(time.verbs().get("p1"), Answer(400, {}, b"<html>"))
    with pytest.raises(ApiError, match=r"without a reason \[520 unknown\]"):
        time.run(time.verbs().get("p1"), Answer(520, {}, b""))
    with pytest.raises(ApiError, match="no answer of a Headway server"):
        time.run(time.verbs().events("p1", None), OPEN, b"event: transition\nid: 1\ndata: {}\n\n")
    with pytest.raises(ApiError, match="no answer of a Headway server"):
        time.run(time.verbs().events("p1", None), OPEN, b"event: transition\ndata: [\n\n")
    with pytest.raises(ApiError, match="307"):
        time.run(time.verbs().get("p1"), Answer(307, {"location": "/"}, b""))


def event(kind: str, id_: int, **data: object) -> bytes:
    text = json.dumps({"attempt": 1, "at": "2026-01-02T03:04:05Z", **data})
    return f"event: {kind}\nid: {id_}\ndata: {text}\n\n".encode()


STREAM = [
    event("transition", 0, status="queued"),
    event("transition", 1_000_000, status="in_progress"),
    event("progress", 1_000_001, fraction=0.5, message="half"),
    event("a kind to come", 1_000_002, what="?"),
    event("output", 1_000_003, output={"so": "far"}),
    event("transition", 2_000_000, status="succeeded", prediction=json.loads(shown("succeeded").body)),
]
OPEN = Answer(200, {}, b"")


def given_events(steps: list[Step]) -> list[Any]:
    return [step.value for step in steps if isinstance(step, Give)]


def test_events_are_typed_and_end_with_the_stream_of_an_ended_prediction(time: Time) -> None:
    _, steps = time.run(time.verbs().events("p1", None), OPEN, b": hello\n\n", *STREAM, b"")
    first, second, progressed, emitted, last = given_events(steps)
    assert (first.status, second.status, last.status) == ("queued", "in_progress", "succeeded")
    assert progressed == Progressed(id=1_000_001, fraction=0.5, message="half", attempt=1, at=NOW)
    assert emitted == Emitted(id=1_000_003, output={"so": "far"}, attempt=1, at=NOW)
    assert isinstance(last, Transition)
    assert last.prediction is not None
    assert last.prediction.id == "p1"
    assert sum(isinstance(step, Read) for step in steps) == len(STREAM) + 2


def test_a_stream_that_is_cut_goes_on_after_the_last_whole_event_and_none_comes_twice(time: Time) -> None:
    told: list[Came] = [
        OPEN,
        STREAM[0] + STREAM[1][:30],
        LOST,
        LOST,
        BUSY,
        OPEN,
        STREAM[0],
        *STREAM[1:],
        LOST,
        Answer(204, {}, b""),
    ]
    _, steps = time.run(time.verbs().events("p1", None), *told)
    assert [each.id for each in given_events(steps)] == [0, 1_000_000, 1_000_001, 1_000_003, 2_000_000]
    resumed = [step.headers.get("last-event-id") for step in sent(steps)]
    assert resumed == [None, "0", "0", "0", "2000000"]
    assert pauses(steps) == [0.125, 0.25, 3.3, 0.125]


def test_a_retried_prediction_has_another_life_in_the_same_stream(time: Time) -> None:
    lives = b"".join(
        event("transition", place * 1_000_000, status=status)
        for place, status in enumerate(["queued", "in_progress", "failed", "queued", "in_progress", "succeeded"])
    )
    _, steps = time.run(time.verbs().events("p1", 0), OPEN, lives, b"")
    assert [each.status for each in given_events(steps)] == [
        "in_progress", "failed", "queued", "in_progress", "succeeded"
    ]  # fmt: skip


def test_a_stream_that_ends_again_and_again_without_a_word_is_given_up(time: Time) -> None:
    with pytest.raises(Unreachable, match="ended before"):
        time.run(time.verbs(retries=2).events("p1", None), OPEN, b"", OPEN, b"", OPEN, b"")
    with pytest.raises(ApiError, match="404"):
        time.run(time.verbs().events("p1", None), Answer(404, {}, b'{"detail": "No.", "code": "x"}'))


CUT = (
    "\ufeffid: 1\r\nevent: a\ndata: é\ndata:two\n\n: word\n\nid\ndata\n\n"
    "retry: 3\nnothing: 1\n\ndata:3\n\ndata: unfinished\n"
).encode()


@given(st.lists(st.integers(0, len(CUT))))
def test_a_stream_may_be_cut_anywhere(cuts: list[int]) -> None:
    places = sorted({*cuts, 0, len(CUT)})
    parser = Parser()
    found = [message for begin, end in pairwise(places) for message in parser.feed(CUT[begin:end])]
    assert found == [Message("a", "é\ntwo", "1"), Message("message", "", ""), Message("message", "3", "")]


def test_a_line_of_megabytes_is_joined_once() -> None:
    parser = Parser()
    assert parser.feed(b"data: ") == []
    assert all(parser.feed(b"x" * 65536) == [] for _ in range(100))
    (message,) = parser.feed(b"\n\n")
    assert len(message.data) == 100 * 65536


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_pauses_grow_to_a_bound_and_are_never_shorter_than_wished(failures: int, chance: float) -> None:
    assert 0.125 <= delay_s(failures, chance) <= 8
    assert delay_s(min(failures, 20), chance) <= delay_s(min(failures, 20) + 1, chance) * 1.0001
    assert 30 <= delay_s(failures, chance, 30.0) <= 33


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        (" 7 ", 7.0),
        ("-1", None),
        ("soon", None),
        ("Fri, 02 Jan 2026 03:04:15 GMT", 10.0),
        ("Fri, 02 Jan 2026 03:04:00 GMT", 0.0),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert retry_after_s(value, NOW) == seconds
