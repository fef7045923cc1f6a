"""The models folder, watched: what is found in it while files come, change and go."""

import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import watchfiles

from headway.digests import digest_of
from headway.errors import ManifestError
from headway.testing import wait_until
from workers.folder import Folder

SETTLE_S = 0.1
MODEL = "class Model: ..."


def put(models: Path, name: str, text: str = MODEL) -> Path:
    path = models / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def models(tmp_path: Path) -> Path:
    put(tmp_path / "models", "echo/1/model.py")
    return tmp_path / "models"


class Watched(Folder):
    """Counts what it is told."""

    def __init__(self, path: Path, **options: float) -> None:
        self.told = 0
        super().__init__(path, self._tell, **{"settle_s": SETTLE_S, "period_s": 30.0, **options})
        self.look()

    def _tell(self) -> None:
        self.told += 1

    def versions(self, model: str = "echo") -> dict[str, bool]:
        return {one.version: one.wanted for one in self.found if one.model == model}


@pytest.fixture
def watch() -> Iterator[Callable[..., Watched]]:
    folders: list[Watched] = []

    def start(path: Path, **options: float) -> Watched:
        folder = Watched(path, **options)
        folders.append(folder)
        folder.start()
        return folder

    yield start
    for folder in folders:
        folder.close()


def test_a_version_dropped_into_the_folder_is_found_at_once_and_one_that_is_removed_is_gone(
    models: Path, watch: Callable[..., Watched]
) -> None:
    folder = watch(models)
    assert folder.versions() == {"1": True}
    put(models, "echo/2/model.py")
    wait_until(lambda: folder.versions() == {"1": False, "2": True}, 5)
    put(models, "other/1/model.py")
    wait_until(lambda: folder.versions("other") == {"1": True}, 5)
    shutil.rmtree(models / "echo" / "2")
    wait_until(lambda: folder.versions() == {"1": True}, 5)
    assert folder.told >= 3


def test_a_version_still_being_copied_is_not_there_yet_and_the_others_do_not_wait_for_it(
    models: Path, watch: Callable[..., Watched]
) -> None:
    folder = watch(models)
    seen: list[dict[str, bool]] = []
    with put(models, "echo/2/model.py").open("a") as slow:
        for number in range(25):
            slow.write("# more\n")
            slow.flush()
            seen.append(folder.versions())
            if number == 5:
                put(models, "other/1/model.py")
            threading.Event().wait(SETTLE_S / 4)
            if folder.versions("other"):
                seen.append(folder.versions())
        assert folder.versions("other") == {"1": True}
    assert all(versions == {"1": True} for versions in seen)
    wait_until(lambda: folder.versions() == {"1": False, "2": True}, 5)
    assert next(one.sha256 for one in folder.found if one.version == "2") == digest_of(models / "echo" / "2")


def test_a_version_that_does_not_come_to_rest_is_said_once(
    models: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Watched(models)
    monkeypatch.setattr("workers.folder.RESTLESS_S", 0.0)
    for number in range(3):
        put(models, "echo/1/diary", "x" * number)
        assert not folder.look()
    assert [record.getMessage() for record in caplog.records] == [
        f"what is new in {models / 'echo' / '1'} is not loaded while its files change"
    ]


def test_weights_before_their_model_file_are_half_a_model(models: Path, watch: Callable[..., Watched]) -> None:
    folder = watch(models)
    put(models, "echo/2/weights.bin")
    put(models, "other/1/model.py")
    wait_until(lambda: folder.versions("other"), 5)
    threading.Event().wait(2 * SETTLE_S)
    assert folder.versions() == {"1": True}
    put(models, "echo/2/model.py")
    wait_until(lambda: folder.versions() == {"1": False, "2": True}, 5)


def test_a_changed_version_stays_as_it_was_until_its_files_lie_still(models: Path) -> None:
    folder = Watched(models)
    (before,) = folder.found
    for text in ("a = 1", "a = 22"):
        put(models, "echo/1/model.py", text)
        assert not folder.look()
        assert folder.found == [before]
    threading.Event().wait(SETTLE_S)
    assert folder.look()
    (after,) = folder.found
    assert after.sha256 != before.sha256


def test_files_that_are_the_same_are_read_once(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[object] = []
    folder = Watched(models)
    monkeypatch.setattr("workers.folder.sha256_of", read.append)
    put(models, "echo/model.toml", "[aliases]\nstable = 1\n")
    folder.look()
    threading.Event().wait(SETTLE_S)
    assert folder.look()
    assert folder.found[0].manifest is not None
    assert folder.found[0].manifest.aliases == {"stable": "1"}
    assert read == []


def test_a_broken_model_toml_leaves_the_versions_as_they_were_and_says_why(
    models: Path, watch: Callable[..., Watched]
) -> None:
    put(models, "echo/model.toml", "[batching]\nmax_batch_size = 7\n")
    folder = watch(models)
    before = list(folder.found)
    put(models, "echo/model.toml", "[batching\n")
    wait_until(lambda: folder.errors, 5)
    assert "not valid TOML" in folder.errors["echo"]
    assert folder.found == before
    put(models, "echo/model.toml", "[batching]\nmax_batch_size = 8\n")
    wait_until(lambda: not folder.errors, 5)
    changed = folder.found[0].manifest
    assert changed is not None
    assert changed.batching.max_batch_size == 8
    put(models, "fresh/1/model.py")
    put(models, "fresh/model.toml", "[batching\n")
    wait_until(lambda: folder.errors, 5)
    assert [(one.version, one.manifest, one.error) for one in folder.found if one.model == "fresh"] == [
        ("1", None, folder.errors["fresh"])
    ]


def test_a_folder_that_cannot_be_watched_is_looked_at_and_one_warning_says_so(
    models: Path, watch: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_watches_left(*paths: object, **options: object) -> Iterator[object]:
        raise OSError("OS file watch limit reached")

    monkeypatch.setattr(watchfiles, "watch", no_watches_left)
    with caplog.at_level(logging.WARNING):
        folder = watch(models, period_s=0.05)
        put(models, "echo/2/model.py")
        wait_until(lambda: folder.versions() == {"1": False, "2": True}, 5)
        put(models, "echo/3/model.py")
        wait_until(lambda: "3" in folder.versions(), 5)
    assert len(caplog.records) == 1


def test_a_folder_that_is_gone_for_a_moment_loses_nothing_and_is_watched_again(
    models: Path, watch: Callable[..., Watched], caplog: pytest.LogCaptureFixture
) -> None:
    folder = watch(models, period_s=0.1)
    models.rename(models.with_name("elsewhere"))
    wait_until(lambda: caplog.records, 5)
    assert folder.versions() == {"1": True}
    models.with_name("elsewhere").rename(models)
    put(models, "echo/2/model.py")
    wait_until(lambda: folder.versions() == {"1": False, "2": True}, 5)


def test_a_folder_that_is_not_there_at_first_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="nowhere"):
        Watched(tmp_path / "nowhere")


def test_the_first_look_waits_only_for_what_has_just_changed(models: Path) -> None:
    threading.Event().wait(SETTLE_S)
    begun = time.monotonic()
    assert Watched(models, settle_s=SETTLE_S).versions() == {"1": True}
    assert time.monotonic() - begun < SETTLE_S
    put(models, "echo/2/model.py")
    assert Watched(models).versions() == {"1": False, "2": True}
