"""A thousand workers are thought dead and wake up, on both stores."""

from collections.abc import Callable

import pytest

from storage.engine import Database
from storage.predictions import Predictions
from storage.workers import Workers
from tests.integration.conftest import Store
from tests.zombies import ROWS, wake_zombies


@pytest.mark.timeout(1200)
def test_a_thousand_zombies_overwrite_nothing_and_tell_nobody(database: Database, sized: Callable[[int], int]) -> None:
    workers = Workers(database)
    workers.register("w1", "cpu", "host", 1)
    zombies = sized(1000)
    wake_zombies(Store(database, Predictions(database), workers), zombies)
    print(f"\n{database.dialect}: {zombies} zombies of {ROWS} predictions each: 0 overwritten, 0 more deliveries")
