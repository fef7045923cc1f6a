"""What lies in the models folder, looked at again whenever something changes in it.

A version is said only when its files have stopped changing, so that nobody loads half a model; until then it is as it
was before, or not there. The operating system says when something changes; where it cannot (a network file system, no
watches left, no folder for a moment), a look every few seconds finds it.
"""

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import watchfiles

from headway.digests import sha256_of
from headway.errors import ManifestError
from headway.manifest import Manifest, read
from headway.versions import CONFIGURATIONS, Found, Place, has_model, scan_model
from workers.places import Places

log = logging.getLogger(__name__)
logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it tells of every change

#: Seconds that files must lie still, and between two looks where nothing tells of changes.
SETTLE_S = 0.5
PERIOD_S = 10.0
#: Seconds after which it is said that a version is not shown because its files do not come to rest.
RESTLESS_S = 60.0

#: Of a file: path, size, time of change (ns), inode.
Mark = tuple[str, int, int, int]


class Folder:
    """`on_change` is called on a thread of its own, after `found` or `errors` changed; it must not raise."""

    def __init__(
        self,
        path: Path | Places,
        on_change: Callable[[], None],
        *,
        settle_s: float = SETTLE_S,
        period_s: float = PERIOD_S,
    ) -> None:
        self._places = path if isinstance(path, Places) else Places(path)
        self._on_change = on_change
        self._settle_s = settle_s
        self._period_s = period_s
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="models-folder", daemon=True)
        self._looking = threading.Lock()
        self._stillness = _Stillness(settle_s)
        self._digests = _Digests()
        self._restless: dict[Path, float] = {}  # since when; infinity: it has been said
        self._by_model: dict[str, list[Found]] = {}
        self._errors: dict[str, str] = {}
        self._first = True
        self._looked_at = -math.inf

    @property
    def found(self) -> Sequence[Found]:
        """Every version, by name and number, as its files lay still the last time."""
        return [found for of_model in self._by_model.values() for found in of_model]

    @property
    def errors(self) -> Mapping[str, str]:
        """Model → what is wrong with its folder or model.toml as a whole.

        Its versions are still found as they were before that; if there were none, `found` says the error too.
        """
        return self._errors

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join()

    def look(self) -> bool:
        """Looks now; whether something changed. Raises ManifestError if the folder cannot be read.

        The first look believes files that have not changed for a while, and waits that long once if others have.
        """
        with self._looking:
            changed = self._look()
            if self._first and self._stillness.pending:
                self._closing.wait(self._settle_s)
                changed |= self._look()
            self._first = False
            return changed

    def _look(self) -> bool:
        places = self._places.look()
        self._stillness.begin(trusting=self._first)
        errors: dict[str, str] = {}
        by_model = {place.name: self._look_at(place, errors) for place in places}
        for model, error in errors.items():
            if error != self._errors.get(model):
                log.warning("%s", error, extra={"model": model})
        self._places.check()  # gone meanwhile, it would seem empty
        changed = (by_model, errors) != (self._by_model, self._errors)
        self._by_model, self._errors = by_model, errors
        self._stillness.forget_gone()
        self._digests.forget_gone()
        self._looked_at = time.monotonic()
        return changed

    def _look_at(self, place: Place, errors: dict[str, str]) -> list[Found]:
        """The versions of one model."""
        name, folder, entry = place
        before = self._by_model.get(name, [])
        still = [self._stillness.of(folder / file) for file in CONFIGURATIONS]  # all at once, not one after the other
        if not all(still):
            if name in self._errors:
                errors[name] = self._errors[name]
            return before
        good = [one for one in before if one.manifest is not None]
        try:
            manifest = read(folder)
            found = scan_model(
                folder,
                sha256=self._digests,
                settled=lambda version: self._settled(version, manifest),
                before={one.version: one for one in good},
                entry=entry,
                setup=self._places.setup,
            )
            error = next((one.error for one in found if one.error is not None and not one.version), None)
        except ManifestError as broken:
            found, error = scan_model(folder, sha256=self._digests, entry=entry), str(broken)
        if error is None:
            return found
        errors[name] = error
        return [one for one in good if not _gone(one.path)] or found

    def _settled(self, version: Path, manifest: Manifest) -> bool:
        there = has_model(version, manifest)
        # Whoever copies file by file may bring the model file last, and take a while.
        if self._stillness.of(version, self._settle_s if there or self._first else self._period_s):
            self._restless.pop(version, None)
            return True
        now = time.monotonic()
        if now - self._restless.setdefault(version, now) >= RESTLESS_S:
            log.warning("what is new in %s is not loaded while its files change", version)
            self._restless[version] = math.inf
        return False

    def _run(self) -> None:
        blind = False  # and said so
        while not self._closing.is_set():
            try:
                for _ in self._stirrings():
                    blind = False
                    self._look_and_tell()
            except (OSError, RuntimeError, ManifestError) as error:
                if not blind:
                    log.warning(
                        "the models folder is not watched, only looked at every %g s: %s", self._period_s, error
                    )
                blind = True
                self._look_blindly()

    def _stirrings(self) -> Iterator[None]:
        """Whenever it is time to look, until another folder lies at the path. Raises OSError and RuntimeError."""
        roots = self._places.roots()
        watched = [os.stat(root) for root in roots]
        self._looked_at = -math.inf  # what changed before it was watched, nobody tells
        for changes in watchfiles.watch(
            *roots,
            watch_filter=lambda _, path: "__pycache__" not in path,
            debounce=max(1, int(self._settle_s * 1000)),
            step=max(1, min(100, int(self._settle_s * 200))),
            rust_timeout=max(1, int(self._settle_s * 1000)),
            yield_on_timeout=True,
            stop_event=self._closing,
            raise_interrupt=False,
        ):
            if changes or self._stillness.pending or self._overdue() or self._places.due:
                yield
            if self._places.roots() != roots or not all(
                os.path.samestat(before, os.stat(root)) for before, root in zip(watched, roots, strict=True)
            ):
                return

    def _overdue(self) -> bool:
        return time.monotonic() - self._looked_at >= self._period_s

    def _look_blindly(self) -> None:
        """For a period, after which it is worth trying to watch again."""
        until = time.monotonic() + self._period_s
        while time.monotonic() < until:
            try:
                self._look_and_tell()
            except ManifestError:
                return_in = self._period_s  # what was found stays: the folder may be mounted again
            else:
                return_in = self._settle_s if self._stillness.pending else self._period_s
            if self._closing.wait(return_in):
                return

    def _look_and_tell(self) -> None:
        """Raises ManifestError."""
        if self.look():
            self._on_change()


class _Stillness:
    """Which paths have not changed between two looks far enough from one another."""

    def __init__(self, settle_s: float) -> None:
        self._settle_s = settle_s
        self._marks: dict[Path, tuple[tuple[Mark, ...], float]] = {}  # … and when they were first seen so
        self._settled: dict[Path, tuple[Mark, ...]] = {}
        self._trusting = False
        self.pending = False  # something will be still soon

    def begin(self, *, trusting: bool) -> None:
        """A look at everything begins. `trusting`: the clock of the file system says well enough what is still."""
        self._trusting, self.pending = trusting, False

    def forget_gone(self) -> None:
        for path in [path for path in self._marks if _gone(path.parent)]:
            del self._marks[path]
            self._settled.pop(path, None)

    def of(self, path: Path, still_s: float | None = None) -> bool:
        """Whether the file, or all below the folder, has lain still so long; or is not there, being a file."""
        still_s = self._settle_s if still_s is None else still_s
        marks, changed_at = _marks(path)
        if self._settled.get(path) == marks:
            return True
        now = time.monotonic()
        seen, since = self._marks.setdefault(path, (marks, now))
        if seen != marks:
            self._marks[path] = (marks, since := now)
        if now - since >= still_s or (self._trusting and time.time() - changed_at >= self._settle_s):
            self._settled[path] = marks
            return True
        self.pending = True
        return False


class _Digests:
    """SHA-256 of files, read only once as long as they are the same."""

    def __init__(self) -> None:
        # With the time of the last change of the inode, which nobody can set: a size and a time of change anybody can.
        self._known: dict[tuple[Path, ...], tuple[tuple[tuple[str, int, int, int, int], ...], str]] = {}

    def __call__(self, files: Sequence[Path]) -> str:
        marks = tuple((*_mark(file, stat := os.stat(file)), stat.st_ctime_ns) for file in files)
        known, digest = self._known.get(tuple(files), ((), ""))
        if known != marks or not digest:
            digest = sha256_of(files)
            self._known[tuple(files)] = marks, digest
        return digest

    def forget_gone(self) -> None:
        for files in [files for files in self._known if any(_gone(file) for file in files)]:
            del self._known[files]


def _mark(file: str | Path, stat: os.stat_result) -> Mark:
    return str(file), stat.st_size, stat.st_mtime_ns, stat.st_ino


def _marks(path: Path) -> tuple[tuple[Mark, ...], float]:
    """Of the file, or of all below the folder, in order; and when the last changed, by the file system's clock."""
    marks: list[Mark] = []
    changed_at = 0.0
    for file in _below(path):
        try:
            stat = os.stat(file)
        except OSError:
            continue  # gone again, or a link to nowhere
        marks.append(_mark(file, stat))
        changed_at = max(changed_at, stat.st_ctime)
    return tuple(sorted(marks)), changed_at


def _below(path: Path) -> Iterator[str]:
    if not os.path.isdir(path):
        yield str(path)
        return
    for folder, folders, files in os.walk(path):
        folders[:] = [name for name in folders if name != "__pycache__"]
        yield folder
        yield from (os.path.join(folder, name) for name in files)


def _gone(path: Path) -> bool:
    """Surely: a disk that cannot be read for a moment has lost nothing."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False
