"""Parts of a reply, put together from reports of which any may be lost: never more than the whole reply's beginning."""

import pytest

from api.answers import BrokenOff
from api.dialects.torchserve.parts import Said
from headway import envelopes
from headway.reports import Kind, Report


def report(n: int, data: bytes, kind: Kind = "output", attempt: int = 1) -> Report:
    return Report(attempt, n, kind, 0, data)


def message(body: bytes, status: int = 200, **headers: str) -> bytes:
    return envelopes.pack_response(envelopes.Response(status, "", headers, body))


def test_parts_are_written_as_torchserve_does_and_the_rest_is_what_is_left_of_the_whole() -> None:
    said = Said()
    first = said.take([report(1, message(b"", 203, to="x"), "message"), report(2, b'"one "')])
    assert (first, said.head.status, said.head.headers) == (b"one ", 203, {"to": "x"})
    assert said.take([report(3, b"{}", "progress"), report(4, message(b"\xff", 500), "message")]) == b"\xff"
    assert said.head.status == 203
    assert said.rest(b"one \xffend") == b"end"


@pytest.mark.parametrize(
    "later", [report(3, b'"three"'), report(2, message(b"")[:-4], "message"), report(2, b"no JSON")]
)
def test_behind_a_part_that_is_lost_or_unreadable_the_rest_comes_at_the_end(later: Report) -> None:
    said = Said()
    assert said.take([report(1, b'"one"')]) == b"one"
    assert said.take([later, report(later.n + 1, b'"four"')]) == b""
    assert said.rest(b"onetwothreefour") == b"twothreefour"


def test_another_attempt_goes_on_where_the_first_was_left() -> None:
    said = Said()
    assert said.take([report(1, b'"one two"')]) == b"one two"
    said.begin(2)
    assert said.take([report(1, b'"one "', attempt=2)]) == b""
    assert said.take([report(2, b'"two three"', attempt=2)]) == b" three"
    assert said.rest(b"one two three") == b""


def test_what_differs_from_what_was_sent_is_not_sent_and_the_answer_breaks_off() -> None:
    said = Said()
    assert said.take([report(1, b'"one"')]) == b"one"
    said.begin(2)
    assert said.take([report(1, b'"other"', attempt=2), report(2, b'"more"', attempt=2)]) == b""
    with pytest.raises(BrokenOff):
        said.rest(b"othermore")
