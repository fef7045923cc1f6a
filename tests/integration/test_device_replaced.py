"""A device process that holds too much, or has lost its device, is replaced, and nobody pays for it who is not to
blame."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from headway.errors import ItemCode
from headway.states import Status
from storage.engine import Database
from tests.serving import LEAKS, Served
from workers import memory

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads what a process holds in /proc")

#: Broken by some inputs: `spoilt` and `gone` are CUDA's words, and from then on every call of the process fails.
STICKY = """
from headway import Model

class Fail(RuntimeError):
    pass

Fail.__module__ = "cupy_backends.cuda.api.runtime"  # one of CUDA's, as far as words go

class Sticky(Model):
    said = None

    def predict(self, inputs, context):
        if "spoil" in inputs:
            self.said = "cudaErrorIllegalAddress: an illegal memory access was encountered"
        marker = context.path.parent / "lost"
        if "lose" in inputs and not marker.exists():
            marker.touch()
            self.said = "cudaErrorECCUncorrectable: uncorrectable ECC error encountered"
        if "always" in inputs:
            self.said = "cudaErrorECCUncorrectable: uncorrectable ECC error encountered"
        if self.said:
            raise Fail(self.said)
        return inputs
"""


@pytest.fixture
def database(sqlite_url: str) -> Iterator[Database]:
    opened = Database.open(sqlite_url)
    yield opened
    opened.close()


def test_a_process_that_leaks_is_loaded_anew_between_batches_and_nothing_is_lost_or_charged(
    database: Database, redis_url: str, tmp_path: Path
) -> None:
    toml = "[limits]\nmemory = '160MB'\n[batching]\nmax_batch_size = 8\n"
    with Served(tmp_path, database, redis_url, LEAKS, toml) as served:
        first = served.pid
        held = memory.resident(first) or 0
        ids = served.submit(range(200))
        rows = served.ended(ids)
        assert [msgspec.json.decode(row.output or b"null") for row in rows] == list(range(1, 201))
        assert {(row.attempt, row.status) for row in rows} == {(1, Status.SUCCEEDED)}
        assert served.charges(ids) == {(0, 0)}
        recycles = served.states.count("loading") - 1
        print(f"{held / 1e6:.0f} MB when it was loaded, {recycles} times loaded anew for 200 predictions")
        # 25 calls of 10 MB, and a call that was on its way when it was full.
        assert 1 <= recycles <= 25 * 10e6 / (160e6 - held)
        assert served.pid != first


def test_a_model_that_is_too_large_from_the_beginning_is_not_loaded_for_ever(
    database: Database, redis_url: str, tmp_path: Path
) -> None:
    with Served(tmp_path, database, redis_url, LEAKS, process_memory=1_000_000) as served:
        assert served.serving.state == "failed"
        assert served.serving.reason is not None
        assert "may hold 1000000 ([limits] memory)" in served.serving.reason


def test_what_was_on_a_device_that_was_lost_runs_again_and_is_not_charged(
    database: Database, redis_url: str, tmp_path: Path
) -> None:
    with Served(tmp_path, database, redis_url, STICKY, "[batching]\nmax_batch_size = 8\n") as served:
        ids = served.submit(["lose", *"abcdefg"])
        rows = served.ended(ids)
        assert {row.status for row in rows} == {Status.SUCCEEDED}
        assert served.charges(ids) == {(0, 0)}
        assert max(row.attempt for row in rows) == 2


def test_what_spoils_a_context_is_found_and_fails_alone(database: Database, redis_url: str, tmp_path: Path) -> None:
    """Its process is ended at once: the mates would otherwise all fail in a context that fails every call."""
    with Served(tmp_path, database, redis_url, STICKY, "[batching]\nmax_batch_size = 8\n") as served:
        bad, *mates = served.submit(["spoil", *"abcdefg"], max_attempts=2)
        (row,), others = served.ended([bad]), served.ended(mates)
        assert row.error is not None
        assert (row.status, row.error.code) == (Status.FAILED, ItemCode.WORKER_LOST)
        assert {one.status for one in others} == {Status.SUCCEEDED}
        assert {charged for charged, _ in served.charges(mates)} == {0}


def test_one_that_says_again_and_again_that_the_device_is_lost_is_charged_in_the_end(
    database: Database, redis_url: str, tmp_path: Path
) -> None:
    with Served(tmp_path, database, redis_url, STICKY) as served:
        (bad,) = served.submit(["always"], max_attempts=2)
        (row,) = served.ended([bad])
        assert (row.status, row.attempt) == (Status.FAILED, 3)


def test_a_size_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    from headway.errors import ManifestError
    from headway.manifest import parse

    def limits(memory: Any) -> Any:
        return parse({"limits": {"memory": memory}}).limits.memory

    assert (limits("2GiB"), limits(1000)) == (2 << 30, 1000)
    with pytest.raises(ManifestError, match=r"\[limits\] memory is '2 gigs'"):
        limits("2 gigs")
