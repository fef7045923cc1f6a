"""What operators' commands print, and how they go on page after page; the server is played."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from launch.control import Operator, purge, retry_all, show_shadows


def operator(*answers: dict[str, Any]) -> tuple[Operator, list[str]]:
    """One that is given these answers, and what it has asked."""
    asked: list[str] = []
    given: Iterator[dict[str, Any]] = iter(answers)

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(f"{request.method} {request.url.raw_path.decode()}")
        return httpx.Response(200, json=next(given))

    return Operator(httpx.Client(base_url="http://server", transport=httpx.MockTransport(answer))), asked


def test_a_purge_goes_on_while_there_is_more(capsys: pytest.CaptureFixture[str]) -> None:
    asking, asked = operator({"purged": 1000, "has_more": True}, {"purged": 24, "has_more": False})
    assert purge(asking, "m") == "m: 1,024 canceled"
    assert capsys.readouterr().err == "headway: 1,000 canceled so far\n"
    assert asked == ["POST /v1/models/m/queue/purge"] * 2


def test_a_bulk_retry_goes_on_where_the_page_before_ended(capsys: pytest.CaptureFixture[str]) -> None:
    asking, asked = operator(
        {"retried": 500, "has_more": True, "last_id": "a"},
        {"retried": 0, "has_more": True, "last_id": "b"},
        {"retried": 1, "has_more": False, "last_id": None},
    )
    assert retry_all(asking, status="failed", model=None) == "501 queued again"
    assert capsys.readouterr().err == "headway: 500 queued again so far\n"
    path = "POST /v1/predictions/retry?status=failed"
    assert asked == [path, f"{path}&after=a", f"{path}&after=b"]


def test_comparisons_are_a_line_each_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    def one(id_: str, **more: Any) -> dict[str, Any]:
        side = {"version": "1", "status": "succeeded", "predict_seconds": 0.25}
        return {"id": id_, "original": side, "shadow": {**side, "version": "2"}, "max_difference": None} | more

    first = {"data": [one("a", equal=True, max_difference=0.0)], "has_more": True, "last_id": "s"}
    gone, unlike = one("b", equal=None, original=None), one("c", equal=False, max_difference=0.5)
    second = {"data": [gone, unlike], "has_more": True, "last_id": "t"}
    asking, asked = operator(first, second)
    show_shadows(asking, "m", "2", 3, as_json=False)
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "a\t1\t2\tyes\t250 ms / 250 ms",
        "b\t- gone\t2\t-\t- / 250 ms",
        "c\t1\t2\tno, by 0.5\t250 ms / 250 ms",
    ]
    assert err == "headway: 1 of 2 are equal\n"
    path = "GET /v1/models/m/versions/2/shadows"
    assert asked == [f"{path}?limit=3", f"{path}?limit=2&after=s"]
