"""What a model may say of an item, where nobody listens and where somebody does."""

import math
from typing import Any

import pytest

from headway import Item


class Notebook:
    """Writes down what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []

    def canceled(self, id_: str) -> bool:
        return id_ == "unwanted"

    def progress(self, id_: str, fraction: float, message: str | None) -> None:
        self.heard.append((id_, fraction, message))

    def emit(self, id_: str, partial: object) -> None:
        self.heard.append((id_, partial))


def test_an_item_that_nobody_listens_to_may_be_talked_of() -> None:
    item = Item("a")
    item.progress(0.5, "half")
    item.emit({"any": "thing"})
    assert not item.canceled()


def test_a_listener_hears_whose_it_is() -> None:
    notebook = Notebook()
    item = Item("a", notebook)
    item.progress(1)
    item.progress(0.25, "a quarter")
    item.emit([1])
    assert notebook.heard == [("a", 1.0, None), ("a", 0.25, "a quarter"), ("a", [1])]
    assert not item.canceled()
    assert Item("unwanted", notebook).canceled()


@pytest.mark.parametrize("fraction", [-0.1, 1.1, math.nan, math.inf, "0.5", None, [0.5], "x" * 1000])
def test_a_progress_that_is_no_fraction_is_refused_with_the_value(fraction: Any) -> None:
    with pytest.raises(ValueError, match="should be a number from 0 to 1") as refused:
        Item("a").progress(fraction)
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    ("message", "said"), [("x" * 501, "501 characters: 500 at most"), (5, "is a int"), (b"", "bytes")]
)
def test_a_message_that_is_none_is_refused(message: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Item("a").progress(0.5, message)
