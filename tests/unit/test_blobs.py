"""What is too large for a row lies in a folder: in full or not at all, and all of a prediction's goes together."""

import os
import stat
from pathlib import Path

import pytest

from headway.clock import new_id
from headway.errors import BlobMissing, BlobsUnavailable
from storage.blobs import INPUT, Blobs, day_of


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(str(tmp_path / "blobs"))


def test_what_is_written_is_read_and_by_pieces(blobs: Blobs) -> None:
    id_, data = new_id(), os.urandom(3_000_001)
    blobs.write(id_, INPUT, data)
    blobs.write(id_, INPUT, data)  # the same again, as after an answer that was lost
    assert blobs.read(id_, INPUT) == data
    assert [len(chunk) for chunk in blobs.chunks(id_, INPUT)] == [1 << 20, 1 << 20, 3_000_001 - (2 << 20)]
    assert (blobs.days(), blobs.of_day(day_of(id_))) == ([day_of(id_)], [id_])


def test_what_is_not_there_is_missing_and_a_folder_that_cannot_be_used_is_another_matter(tmp_path: Path) -> None:
    blobs = Blobs(str(tmp_path / "blobs"))
    with pytest.raises(BlobMissing):
        blobs.read(new_id(), INPUT)
    assert blobs.days() == []
    blobs.remove(new_id(), INPUT)
    blobs.forget(new_id())
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(BlobsUnavailable):
        Blobs(str(tmp_path / "file")).write(new_id(), INPUT, b"x")


def test_a_predictions_blobs_go_together_and_one_may_go_alone(blobs: Blobs) -> None:
    id_, other, claim = new_id(), new_id(), new_id()
    for name in (INPUT, claim):
        blobs.write(id_, name, b"x")
    blobs.write(other, INPUT, b"y")
    blobs.remove(id_, claim)
    assert blobs.read(id_, INPUT) == b"x"
    blobs.forget(id_)
    with pytest.raises(BlobMissing):
        blobs.read(id_, INPUT)
    assert blobs.read(other, INPUT) == b"y"


def test_what_could_not_be_written_in_full_leaves_nothing(
    blobs: Blobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    id_ = new_id()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BlobsUnavailable, match="No space left"):
        blobs.write(id_, INPUT, b"x" * 1000)
    assert not any(file.is_file() for file in tmp_path.rglob("*"))


def test_nobody_else_on_the_machine_may_look(blobs: Blobs, tmp_path: Path) -> None:
    id_ = new_id()
    blobs.write(id_, INPUT, b"x")
    assert stat.S_IMODE((tmp_path / "blobs" / day_of(id_) / id_).stat().st_mode) == 0o700


def test_a_store_may_be_anywhere_that_fsspec_reaches() -> None:
    blobs, id_ = Blobs("memory://some/where"), new_id()
    blobs.write(id_, INPUT, b"abc")
    assert blobs.read(id_, INPUT) == b"abc"
    assert blobs.of_day(day_of(id_)) == [id_]
    blobs.forget(id_)
    with pytest.raises(BlobMissing):
        blobs.read(id_, INPUT)
