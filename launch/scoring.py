"""`headway batch`: a file in, its results out in a file, whatever breaks on the way.

Its rule: there is one way to go on, from what the two files of `ledger.py` say. A kill, a Ctrl-C and a server that is
away for a while differ only in who goes on: the next process, or this one after a pause.
"""

import contextlib
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

from headway.client import ApiError, Batch, BatchJob, Client, Timeout, Unreachable
from headway.client.backoff import PASSING, delay_s
from headway.client.batches import BatchOptions
from headway.errors import HeadwayError, SettingsError
from launch.ledger import File, Ledger, Results, results
from launch.showing import Shown, summary

#: A server that is away for longer, with nothing sent or received in between, is given up.
_PATIENCE_S = 600.0
_LOOK_S = 1.0

#: Exit codes beside those of all commands: some lines have no output; Ctrl-C.
SOME_FAILED, INTERRUPTED = 3, 130

#: Answers which say that the server knows nothing of what was begun.
_FORGOTTEN = ("batch_not_found", "idempotency_key_reused")


def score(client: Client, source: str, model: str, output: Path | None, options: Mapping[str, object]) -> int:
    """`source` is a path, or `-`; `options` go into the query. The exit code. Raises HeadwayError."""
    request = {"model": model, **{name: str(value) for name, value in options.items() if value is not None}}
    with _file(source) as (path, piped):
        target = output or _beside(source, piped)
        ledger_path = target.with_name(f"{target.name}.state")
        if not ledger_path.exists() and target.exists() and target.stat().st_size:
            raise SettingsError(f"{target} exists already: remove it, or name another --output")
        with results(target) as kept:
            ledger = Ledger(ledger_path, _described(path, piped), request)
            ledger.note()
            return _Scoring(client, path, request, ledger, kept, target).run()


class _Scoring:
    def __init__(
        self, client: Client, path: Path, request: Mapping[str, str], ledger: Ledger, kept: Results, target: Path
    ) -> None:
        self._client = client
        self._path = path
        self._request = dict(request)
        self._ledger = ledger
        self._kept = kept
        self._target = target
        self._shown = Shown()
        self._moved = 0  # bytes sent further than before, and received

    def run(self) -> int:
        try:
            with self._shown:
                ended = self._persist()
        except KeyboardInterrupt:
            self._say_how_to_go_on()
            return INTERRUPTED
        except ApiError as error:
            if error.code in _FORGOTTEN:
                raise SettingsError(f"{error}: remove {self._ledger.path} and the results to begin anew") from error
            if self._ledger.new and self._ledger.batch_id is None and error.status not in PASSING:
                self._ledger.forget()
                self._target.unlink()
            raise
        print(f"{self._target}: {summary(ended)}")
        if ended.status == "failed":
            why = ended.error.message if ended.error is not None else "without a reason"
            print(f"headway: batch {ended.id} failed: {why}", file=sys.stderr)
            return 1
        return 0 if ended.request_counts.completed == ended.request_counts.total else SOME_FAILED

    def _persist(self) -> Batch:
        """Goes on until it is done, with pauses where the server is away. Raises what does not pass, or lasts."""
        moved, failures, moved_at = 0, 0, time.monotonic()
        while True:
            try:
                return self._go_on()
            except (Unreachable, Timeout, ApiError) as error:
                if isinstance(error, ApiError) and error.status not in PASSING:
                    raise
                if self._moved > moved:
                    moved, failures, moved_at = self._moved, 0, time.monotonic()
                elif time.monotonic() - moved_at > _PATIENCE_S:
                    raise
                failures += 1
                retry_after_s = None if isinstance(error, Timeout) else error.retry_after_s
                pause_s = delay_s(failures, random.random(), retry_after_s)
                self._shown.say(f"{error}; going on in {pause_s:.1f} s")
                time.sleep(pause_s)

    def _go_on(self) -> Batch:
        if self._ledger.batch_id is None:
            self._upload()
        assert self._ledger.batch_id is not None
        job = self._client.get_batch(self._ledger.batch_id)
        with self._watched(job):
            for block in job.results_ndjson(after=self._kept.after):
                self._kept.write(block)
                self._moved += len(block)
        ended = job.refresh()
        self._kept.sync()
        return ended

    def _upload(self) -> None:
        file = _described(self._path, True)
        furthest = 0

        def sent(count: int) -> None:
            nonlocal furthest
            if count > furthest:
                self._moved += count - furthest
                furthest = count
            self._shown.sent(count)

        self._shown.begin_upload(file.size)
        options = cast(BatchOptions, {name: value for name, value in self._request.items() if name != "model"})
        options["idempotency_key"], options["on_sent"] = self._ledger.key, sent
        job = self._client.batch(self._path, model=self._request["model"], **options)
        if _described(self._path, True) != file:
            raise SettingsError(
                f"{self._path} changed while it was sent. Stop what arrived with `headway cancel {job.id}`, and remove "
                f"{self._ledger.path} to begin anew"
            )
        self._ledger.note(job.id)
        self._shown.say(f"batch {job.id}")

    @contextlib.contextmanager
    def _watched(self, job: BatchJob) -> Iterator[None]:
        """Shows how far it is, which the results do not tell: they wait for the slowest of the next lines."""
        over = threading.Event()

        def look() -> None:
            while True:
                self._shown.scored(job.batch)
                if over.wait(_LOOK_S):
                    return
                with contextlib.suppress(HeadwayError):  # whoever reads the results meets it, too
                    job.refresh()

        watcher = threading.Thread(target=look, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()

    def _say_how_to_go_on(self) -> None:
        id_ = self._ledger.batch_id
        told = "nothing runs before all of it has arrived" if id_ is None else f"`headway cancel {id_}` stops the batch"
        print(f"headway: interrupted; the same command goes on, {told}", file=sys.stderr)


def _described(path: Path, piped: bool) -> File:
    try:
        return File.of(path, piped=piped)
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}") from error


@contextlib.contextmanager
def _file(source: str) -> Iterator[tuple[Path, bool]]:
    """(a file that can be read more than once, whether it was made for that). Raises SettingsError."""
    path = Path("/dev/stdin" if source == "-" else source)
    if source != "-" and path.is_file():
        yield path, False
        return
    with tempfile.NamedTemporaryFile(prefix="headway-") as spool:
        try:
            with path.open("rb") as pipe:
                shutil.copyfileobj(pipe, spool)
            spool.flush()
        except OSError as error:
            raise SettingsError(f"cannot read {source}: {error.strerror}") from error
        yield Path(spool.name), True


def _beside(source: str, piped: bool) -> Path:
    if piped:
        raise SettingsError("what comes through a pipe has no name: say where the results go with --output")
    path = Path(source)
    return path.with_name(f"{path.name.removesuffix('.gz').rpartition('.')[0] or path.name}.results.ndjson")
