"""Which version takes what names none: shares by turns, or by what the caller always says."""

from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.registry import ModelView
from api.traffic import Round, Split, stuck, weights_of
from headway.registry import Route, State, Traffic, Version, Wish
from tests.unit.test_api_views import version

Weights = dict[str, float]

weights = st.dictionaries(
    st.sampled_from("123456789"),
    st.one_of(st.integers(1, 1000).map(float), st.floats(1e-6, 1e9, exclude_min=True)),
    min_size=1,
)


@given(weights, st.integers(1, 400))
def test_after_any_number_of_turns_each_has_had_its_share_within_one(given_: Weights, turns: int) -> None:
    round_, had, total = Round(given_), Counter[str](), sum(given_.values())
    for n in range(1, turns + 1):
        had[round_.next()] += 1
        for name, weight in given_.items():
            assert abs(had[name] - n * weight / total) < 1 + 1e-9


def test_a_tenth_has_every_tenth_turn() -> None:
    round_ = Round({"1": 90.0, "2": 10.0})
    turns = [round_.next() for _ in range(10_000)]
    assert Counter(turns) == {"1": 9000, "2": 1000}
    assert all(turns[start : start + 10].count("2") == 1 for start in range(0, 10_000, 10))


@given(weights, st.text(max_size=20), st.data())
def test_what_sticks_moves_only_to_where_more_weight_is(given_: Weights, value: str, data: st.DataObject) -> None:
    before = stuck("m", given_, value)
    heavier = data.draw(st.sampled_from(sorted(given_)))
    after = stuck("m", {**given_, heavier: given_[heavier] * 3}, value)
    assert after in (before, heavier)


def test_of_sticky_values_as_many_move_as_must() -> None:
    users = [f"user-{n}" for n in range(20_000)]
    tenth, fifth = {"1": 90.0, "2": 10.0}, {"1": 80.0, "2": 20.0}
    before = {user: stuck("m", tenth, user) for user in users}
    after = {user: stuck("m", fifth, user) for user in users}
    assert Counter(before.values())["2"] == pytest.approx(2000, rel=0.1)
    assert Counter(after.values())["2"] == pytest.approx(4000, rel=0.1)
    moved = [user for user in users if before[user] != after[user]]
    assert len(moved) == pytest.approx(2000, rel=0.1)
    assert {after[user] for user in moved} == {"2"}
    assert len({stuck(model, {"1": 1.0, "2": 1.0}, "user-1") for model in "abcdefgh"}) == 2  # not the same everywhere


def test_who_has_no_value_goes_by_turns() -> None:
    split = Split("m", {"1": 1.0, "2": 1.0}, "user")
    assert {split.choose({"user": "a"}) for _ in range(9)} == {split.choose({"user": "a"})}
    assert Counter(split.choose({"who": "a"}) for _ in range(10)) == {"1": 5, "2": 5}
    assert Split("m", {"1": 1.0, "3": 5.0, "2": 5.0}, None).heaviest == "3"


# Views


def known(name: str, state: State = "ready", *, warm: bool = False, wish: Wish | None = None) -> Version:
    return msgspec.structs.replace(version(name, state), loaded_at=1 if warm else None, wish=wish)


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        ([known("1"), known("2")], {"1": 90, "2": 10}),
        ([known("1"), known("2", "loading")], {"1": 90}),
        ([known("1"), known("2", "unloaded", warm=True)], {"1": 90, "2": 10}),  # loaded again by who asks for it
        ([known("1"), known("2", wish="unload")], {"1": 90}),
        ([known("1", "loading"), known("2", "loading")], {"1": 90, "2": 10}),
        ([known("1", "failed"), known("2", "loading")], {"2": 10}),
        ([known("1", "unloaded", wish="unload"), known("2", "loading")], {"2": 10}),
        ([known("1", "failed"), known("2", "failed")], {"1": 90, "2": 10}),
        ([known("1"), known("5")], {"1": 90}),
        ([known("5")], {}),
    ],
)
def test_a_version_that_is_not_released_leaves_its_share(versions: list[Version], expected: Weights) -> None:
    traffic = Traffic(versions={"1": 90, "2": 10})
    assert weights_of(traffic, {row.version: row for row in versions}) == expected


@pytest.mark.parametrize(
    ("versions", "latest"),
    [
        ([known("1"), known("2", "unloaded", warm=True)], "2"),
        ([known("1", "unloaded", warm=True), known("2", "loading")], "1"),
        ([known("1"), known("2", wish="unload")], "1"),
        ([known("1", "loading"), known("2", "unloaded", wish="unload")], "1"),
        ([known("1", "failed"), known("2", "unloaded", wish="unload")], "2"),
    ],
)
def test_the_latest_is_the_highest_that_was_warm(versions: list[Version], latest: str) -> None:
    assert ModelView.of("m", versions).latest == latest


def test_an_operators_alias_stands_before_the_folders_and_may_take_it_away() -> None:
    versions = [version("1"), version("2", aliases={"stable": 1, "old": 1})]
    route = Route(aliases={"stable": "2", "old": None, "new": "1"})
    view = ModelView.of("m", versions, route)
    assert (view.aliases, view.declared_aliases) == ({"stable": "2", "new": "1"}, {"stable": "1", "old": "1"})


def test_turns_go_on_while_the_weights_stand() -> None:
    versions = [known("1"), known("2")]
    route = Route(traffic=Traffic(versions={"1": 1, "2": 1}))
    first = ModelView.of("m", versions, route)
    again = ModelView.of("m", versions, route, first)
    assert again.split is first.split is not None
    moved = ModelView.of("m", versions, Route(traffic=Traffic(versions={"1": 2, "2": 1})), first)
    assert moved.split is not first.split
    assert ModelView.of("m", versions, Route(), first).split is None


def test_copies_go_to_what_has_been_warm_and_nowhere_while_paused() -> None:
    versions = [known("1"), known("2", "loading"), known("3", "unloaded", warm=True)]
    traffic = Traffic(shadow=("2", "3", "9"))
    assert [target.version for target in ModelView.of("m", versions, Route(traffic=traffic)).shadows] == ["3"]
    assert ModelView.of("m", versions, Route(traffic=traffic, paused=True)).shadows == []


@pytest.mark.parametrize(
    ("policy", "wanted"), [("latest", {"1", "2", "4", "5"}), ("all", set("12345")), ([3], set("1234"))]
)
def test_what_policy_alias_or_traffic_want_is_wanted(policy: object, wanted: set[str]) -> None:
    versions = [version(name, versions={"policy": policy}) for name in "12345"]
    route = Route(traffic=Traffic(versions={"2": 1}, shadow=("4",)), aliases={"stable": "1"})
    view = ModelView.of("m", versions, route)
    assert {name for name in "12345" if view.wanted(name)} == wanted
