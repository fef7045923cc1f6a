"""Outputs on their way to the blob store, and the fence."""

import threading
from collections.abc import Sequence
from pathlib import Path

from headway.errors import BlobMissing
from headway.testing import wait_until
from headway.types import Outcome
from storage.blobs import Blobs
from storage.running import Finished
from tests.integration.conftest import Store
from workers.outputs import Outputs


def test_an_output_whose_claim_has_lost_is_removed_again(store: Store, tmp_path: Path) -> None:
    blobs = Blobs(str(tmp_path / "blobs"))
    (id_,) = store.submitted()
    lost, _ = store.claimed([id_])
    store.predictions.give_back(lost, [], settled=False)
    store.execute("UPDATE predictions SET status = 0, claim = NULL")
    claim, _ = store.claimed([id_])
    outputs = Outputs(blobs)
    big = Outcome(id=id_, output=b'"' + b"x" * 300_000 + b'"')
    written = threading.Event()

    def finish(under: str) -> None:
        claims = {id_: under}

        def then(outcomes: Sequence[Outcome]) -> None:
            ended = store.predictions.finish([Finished(claim=under, outcomes=outcomes, settled=True)])
            outputs.remove_lost(outcomes, claims, ended)
            written.set()

        outputs.put([big], claims, then)
        assert written.wait(10)
        written.clear()

    finish(lost)
    finish(claim)
    assert outputs.close(10)
    assert blobs.read(id_, claim) == big.output
    wait_until(lambda: gone(blobs, id_, lost), 10, "what has lost to be removed")


def gone(blobs: Blobs, id_: str, name: str) -> bool:
    try:
        blobs.read(id_, name)
    except BlobMissing:
        return True
    return False
