"""How far a `headway batch` is: bars for a terminal, else a line now and then. All of it on stderr."""

import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Column

from headway.client import Batch
from launch.asking import one_line

_PLAIN_EVERY_S = 10.0


class Shown:
    """May be told by two threads."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._progress: Progress | None = None
        self._task = TaskID(-1)
        self._said_at = time.monotonic()
        self._upload_bytes = 0
        self._uploading = False

    def __enter__(self) -> "Shown":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def say(self, text: str) -> None:
        """A line, above the bar."""
        self._console.print(f"headway: {one_line(text)}", markup=False)

    def begin_upload(self, size_bytes: int) -> None:
        self._uploading, self._upload_bytes = True, size_bytes
        self._begin(DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(), words="upload", total=size_bytes)

    def sent(self, count: int) -> None:
        if self._progress is not None:
            self._progress.update(self._task, completed=count)
        else:
            self._now_and_then(lambda: f"{count / 1e6:,.1f} of {self._upload_bytes / 1e6:,.1f} MB sent")

    def scored(self, batch: Batch) -> None:
        if self._uploading or self._progress is None:
            self._uploading = False
            self._begin(TextColumn("{task.fields[told]}"), words=batch.status, total=None)
        counts = batch.request_counts
        if self._progress is not None:
            # Until all of the file has been seen nobody knows how much it is, and a bar of no length moves.
            total = None if batch.status == "validating" else counts.total
            self._progress.update(
                self._task, description=batch.status, completed=counts.ended, total=total, told=_told(batch)
            )
        else:
            self._now_and_then(lambda: f"{batch.status}: {_told(batch)}")

    def _begin(self, *columns: ProgressColumn, words: str, total: float | None) -> None:
        self._stop()
        if self._console.is_terminal:
            text = TextColumn("{task.description}", table_column=Column(min_width=11))
            self._progress = Progress(text, BarColumn(), *columns, console=self._console, transient=True)
            self._task = self._progress.add_task(words, total=total, told="")
            self._progress.start()

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _now_and_then(self, text: Callable[[], str]) -> None:
        if time.monotonic() - self._said_at >= _PLAIN_EVERY_S:
            self._said_at = time.monotonic()
            self.say(text())


def _told(batch: Batch) -> str:
    counts, progress = batch.request_counts, batch.progress
    words = [f"{counts.ended:,} of {counts.total:,}"]
    if progress is not None and progress.rate is not None:
        words.append(f"{progress.rate:,.0f}/s")
    if progress is not None and progress.eta_seconds is not None:
        words.append(f"{_duration(progress.eta_seconds)} left")
    return ", ".join(words + _losses(batch))


def summary(batch: Batch) -> str:
    """In one line, how a batch has ended."""
    counts = batch.request_counts
    return ", ".join([f"{counts.total:,} lines", f"{counts.completed:,} succeeded", *_losses(batch)])


def _losses(batch: Batch) -> list[str]:
    counts = batch.request_counts
    named = {"failed": counts.failed, "canceled": counts.canceled, "expired": counts.expired}
    return [f"{count:,} {name}" for name, count in named.items() if count]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
