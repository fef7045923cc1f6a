"""The blob store is swept of what has no row: purged predictions, and what a process that died left behind."""

import threading
from pathlib import Path
from typing import Any

import pytest

from headway.clock import new_id, now_us
from headway.errors import BlobMissing
from headway.testing import new_prediction, wait_until
from storage.blobs import INPUT, Blobs
from workers.sweeper import Sweeper

DAY_US = 86_400_000_000


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(str(tmp_path / "blobs"))


def id_of(days_ago: float) -> str:
    milliseconds = f"{int(now_us() - days_ago * DAY_US) // 1000:012x}"
    return f"{milliseconds[:8]}-{milliseconds[8:]}{new_id()[13:]}"


def test_a_sweep_takes_what_has_no_row_once_it_is_old_and_nothing_else(store: Any, blobs: Blobs) -> None:
    kept, orphan, young = id_of(5), id_of(5), id_of(0)
    store.predictions.insert([new_prediction(id=kept, body=b"", blob_bytes=1)])
    for id_ in (kept, orphan, young):
        blobs.write(id_, INPUT, b"x")
    assert Sweeper(blobs, store.predictions).sweep(threading.Event()) == 1
    assert blobs.read(kept, INPUT) == blobs.read(young, INPUT) == b"x"
    with pytest.raises(BlobMissing):
        blobs.read(orphan, INPUT)


def test_what_the_janitor_purged_goes_soon(store: Any, blobs: Blobs) -> None:
    id_ = new_id()
    blobs.write(id_, INPUT, b"x")
    sweeper, stopping = Sweeper(blobs, store.predictions), threading.Event()
    thread = threading.Thread(target=sweeper.run, args=(stopping,))
    thread.start()
    sweeper.forget([id_])
    try:
        wait_until(lambda: not blobs.days() or not blobs.of_day(blobs.days()[0]), 10, "the blob to go")
    finally:
        stopping.set()
        thread.join(5)


def test_a_purge_says_which_rows_had_blobs(store: Any) -> None:
    plain, large = new_prediction(id=id_of(9)), new_prediction(id=id_of(9), body=b"", blob_bytes=300_000)
    store.predictions.insert([plain, large])
    for id_ in (plain.id, large.id):
        store.predictions.cancel_queued([id_], "default")
    store.execute("UPDATE predictions SET completed_at = 1")
    last, count, blobs = store.predictions.purge(now_us() - 7 * DAY_US)
    assert (last is not None, count, list(blobs)) == (True, 2, [large.id])
