"""What a worker holds, and what of it is to be canceled."""

from workers.claims import Claims


def test_a_cancel_that_comes_while_its_row_is_being_claimed_is_not_lost() -> None:
    claims = Claims()
    claims.open("c1", ["a", "b"])
    assert claims.held(["b", "x"]) == ["b"]
    claims.cancel({"b": "c1"})
    claims.hold("c1", ["a", "b"])
    assert claims.canceled({"a": "c1", "b": "c1"}) == {"b"}


def test_a_cancel_is_of_a_claim_and_ends_with_it() -> None:
    claims = Claims()
    claims.open("c1", ["a"])
    claims.hold("c1", ["a"])
    claims.cancel({"a": "c1", "x": "another worker's"})
    assert claims.settle("c1", ["a"])
    assert claims.held() == []
    claims.open("c2", ["a", "x"])
    claims.cancel({"a": "c1"})
    assert claims.canceled({"a": "c2", "x": "another worker's"}) == set()


def test_a_claim_that_brings_nothing_is_over_and_one_that_is_settled_in_parts_with_its_last() -> None:
    claims = Claims()
    claims.open("c1", ["a"])
    claims.hold("c1", [])
    assert "c1" not in claims
    claims.open("c2", ["a", "b", "c"])
    claims.hold("c2", ["a", "b"])
    assert claims.held() == ["a", "b"] or claims.held() == ["b", "a"]
    assert not claims.settle("c2", ["a"])
    assert "c2" in claims
    assert claims.settle("c2", ["b"])
    assert "c2" not in claims
