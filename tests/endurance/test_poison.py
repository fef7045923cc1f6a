"""One bad item in each micro-batch: it fails alone, and costs its mates little."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from headway.states import Status
from storage.engine import Database
from tests.serving import LEAKS, Served

SIZE = 32

COUNTS = """
import logging
from headway import Model

logging.disable()  # each poison is worth a traceback, and there are many

class Counts(Model):
    passes = 0

    def predict(self, inputs):
        self.passes += 1
        if "poison" in inputs:
            raise ValueError("poison")
        return [[value, self.passes] for value in inputs]
"""


@pytest.mark.timeout(1800)
def test_no_mate_of_a_poison_fails_and_a_batch_costs_ten_more_passes_at_most(
    sqlite_url: str, redis_url: str, tmp_path: Path, sized: Callable[[int], int]
) -> None:
    batches = sized(1000)
    toml = f"[batching]\nmax_batch_size = {SIZE}\nmax_wait_ms = 5000\nsize = 'none'\n"
    database = Database.open(sqlite_url)
    with Served(tmp_path, database, redis_url, COUNTS, toml) as served:
        passes, calls = 0, []
        for number in range(batches):
            place = number * 7 % SIZE
            ids = served.submit("poison" if index == place else index for index in range(SIZE))
            rows = served.ended(ids)
            failed = [index for index, row in enumerate(rows) if row.status is Status.FAILED]
            assert failed == [place], (number, failed)
            answers = [msgspec.json.decode(row.output) for row in rows if row.output is not None]
            assert [value for value, _ in answers] == [index for index in range(SIZE) if index != place]
            assert {row.attempt for row in rows} == {1}
            last = max(count for _, count in answers)
            calls.append(last - passes)  # and perhaps the poison itself, alone, as the last of its batch
            passes = last
        (end,) = served.ended(served.submit([0]))
        _, total = msgspec.json.decode(end.output or b"")
        extra = (total - 1) / batches - 1
        print(f"\n{batches} batches of {SIZE} with one poison each: 0 mates failed, {extra:.2f} more passes a batch")
        assert extra <= 10
    database.close()


@pytest.mark.timeout(1800)
def test_a_model_that_leaks_ten_megabytes_a_call_serves_them_all(
    database: Database, redis_url: str, tmp_path: Path, sized: Callable[[int], int]
) -> None:
    calls = sized(1000)
    toml = "[limits]\nmemory = '300MB'\n[batching]\nmax_batch_size = 8\n"
    with Served(tmp_path, database, redis_url, LEAKS, toml) as served:
        ids = served.submit(range(calls * 8))
        rows = served.ended(ids, 1500)
        assert {(row.status, row.attempt) for row in rows} == {(Status.SUCCEEDED, 1)}
        assert served.charges(ids) == {(0, 0)}
        recycles = served.states.count("loading") - 1
        assert recycles >= calls * 10 / 300 / 2
        print(f"\n{database.dialect}: {len(ids)} predictions, {calls * 10} MB leaked, {recycles} times loaded anew")
