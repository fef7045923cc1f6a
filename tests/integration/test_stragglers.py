"""What no hint brought is found by a worker that has room, whether or not other hints come in meanwhile."""

import time
from collections.abc import Iterable
from typing import Any, cast

from headway.testing import new_prediction, wait_until
from headway.types import Hint
from storage.engine import Database
from storage.predictions import Predictions
from workers.stragglers import Stragglers
from workers.window import Window


class _Empty:
    """A window of digits@1 that is empty whenever it is asked."""

    model, version, max_batch_size = "digits", "1", 8
    empty, paused = True, False

    def __init__(self) -> None:
        self.offered: list[str] = []
        self.offered_at = 0.0

    def offer(self, hints: Iterable[tuple[int, Hint]], **_: Any) -> list[str]:
        self.offered += [hint.id for _, hint in hints]
        return []


class _Trickling(_Empty):
    """The same, and a hint has come in and gone just now."""

    @property
    def offered_at(self) -> float:
        return time.monotonic()

    @offered_at.setter
    def offered_at(self, at: float) -> None:
        pass


def _aged(database: Database, id_: str, seconds: int) -> None:
    with database.write() as connection:
        connection.exec_driver_sql(f"UPDATE predictions SET position = position - {seconds}000000 WHERE id = '{id_}'")


def _found(database: Database, window: _Empty, wanted: str) -> list[str]:
    stragglers = Stragglers(lambda: [cast(Window, window)], Predictions(database), lambda: [0])
    stragglers.start()
    try:
        wait_until(lambda: wanted in window.offered, 10, "the straggler to be offered")
    finally:
        stragglers.close()
    return window.offered


def test_an_idle_window_is_offered_what_no_hint_brought(database: Database) -> None:
    row = new_prediction()
    Predictions(database).insert([row])
    _aged(database, row.id, 2)
    assert row.id in _found(database, _Empty(), row.id)


def test_a_trickle_of_hints_does_not_keep_what_was_lost_before_waiting(database: Database) -> None:
    lost, fresh = new_prediction(), new_prediction()
    Predictions(database).insert([lost])
    _aged(database, lost.id, 4)
    Predictions(database).insert([fresh])  # its hint may be on its way
    assert set(_found(database, _Trickling(), lost.id)) == {lost.id}
