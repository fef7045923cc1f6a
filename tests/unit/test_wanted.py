"""Which versions are kept loaded: the policy, what operators say, and who serves until the latest can."""

import pytest

from headway.registry import Route, Traffic, Wish
from workers.wanted import Known, wanted


def known(version: str, state: str = "", *, wanted: bool = False, wish: Wish | None = None) -> Known:
    """`state`: of warm, failed, released, any."""
    return Known(
        version=version,
        wanted=wanted,
        warm="warm" in state,
        failed="failed" in state,
        released="warm" in state or "released" in state,
        wish=wish,
    )


@pytest.mark.parametrize(
    ("versions", "kept", "urgent"),
    [
        ([known("1"), known("2", wanted=True)], "2", ""),
        ([known("1", "warm"), known("2", wanted=True)], "1 2", "2"),
        ([known("1", "warm"), known("2", "warm", wanted=True)], "2", ""),
        ([known("1", "released"), known("2", wanted=True)], "2", "2"),
        ([known("1"), known("2", "failed", wanted=True)], "1 2", ""),
        ([known("1"), known("2", "failed"), known("3", "failed", wanted=True)], "1 2 3", ""),
        ([known("1", "warm"), known("2"), known("3", wanted=True)], "1 3", "3"),
        ([known("1", "warm"), known("2", "released", wanted=True)], "2", ""),
        ([known("1"), known("2", wanted=True, wish="unload")], "1", ""),
        ([known("1", wish="load"), known("2", "warm", wanted=True)], "1 2", "1"),
        ([known("1", "warm", wish="load"), known("2", "warm", wanted=True)], "1 2", "1"),
    ],
)
def test_the_latest_is_kept_and_the_one_before_it_until_that_has_been_warm(
    versions: list[Known], kept: str, urgent: str
) -> None:
    answer = wanted(versions, Route(), latest_only=True)
    assert (set(answer.kept), set(answer.urgent & answer.kept)) == (set(kept.split()), set(urgent.split()))


def test_what_routes_name_is_kept_and_what_an_operator_unloads_never_is() -> None:
    versions = [known(str(n), "released", wanted=n == 6, wish="unload" if n == 4 else None) for n in range(1, 7)]
    route = Route(
        traffic=Traffic(versions={"1": 90, "4": 10}, shadow=("2",)), aliases={"stable": "3", "gone": None, "old": "99"}
    )
    assert wanted(versions, route, latest_only=True).kept == {"1", "2", "3", "6"}
    assert wanted(versions, Route(), latest_only=False).kept == {"6"}
