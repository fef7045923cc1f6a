"""What a client can do with batches, without doing any I/O.

Its rules: an upload that broke off is sent again from its beginning under the same key, and the server skips what it
has; results go on after the last whole line, so each comes once whatever becomes of the connection.
"""

import uuid
from collections.abc import Callable
from typing import TypedDict
from urllib.parse import quote

import msgspec

from headway.client.asking import Asking, checked, decoded, foreign, passing
from headway.client.backoff import PASSING, delay_s
from headway.client.errors import Timeout
from headway.client.ndjson import WholeLines, last_line
from headway.client.records import Batch, BatchPage, Result
from headway.client.steps import Answer, Give, Lost, Pause, Read, Send, Verb
from headway.client.upload import Upload
from headway.client.verbs import quoted

#: A block may wait for many rows of SQL before it is taken.
_UPLOAD_SILENCE_S = 120.0
#: A stream of results says something every 15 s.
_STREAM_SILENCE_S = 45.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 5.0


class BatchOptions(TypedDict, total=False):
    """What a batch may say beside its lines; what is left out is for the server to decide."""

    version: str | int | None
    alias: str | None
    priority: int | None  # 0 first … 9, among batches: every single prediction goes before them
    completion_window: str | int | None  # seconds, or 30m, 12h, 7d; what has not begun by then expires
    webhook: str | None  # a URL that is told of the end
    idempotency_key: str | None  # a fresh UUID if nobody says
    on_sent: Callable[[int], None] | None  # told how many bytes of the upload have been sent


class BatchFilter(TypedDict, total=False):
    """What a list is narrowed to."""

    status: str | None


class BatchVerbs(Asking):
    """Of batches."""

    def create(self, upload: Upload, model: str, options: BatchOptions) -> Verb[Batch]:
        """However long it takes; retries are counted from where the last one came further than those before."""
        fields = {name: str(value) for name, value in options.items() if value is not None and name != "on_sent"}
        key = fields.pop("idempotency_key", str(uuid.uuid4()))
        send = Send(
            method="POST",
            path="/v1/batches",
            query={"model": model, **fields},
            headers={**upload.headers, "idempotency-key": quoted(key)},
            body=upload,
            silence_s=_UPLOAD_SILENCE_S,
        )
        failures = furthest = 0
        while True:
            came = yield send
            if upload.broken is not None:
                raise upload.broken
            if isinstance(came, Answer) and came.status not in PASSING:
                return decoded(checked(came), Batch)
            trouble = passing(came)
            failures = 1 if upload.furthest > furthest else failures + 1
            furthest = upload.furthest
            if failures > self._retries:
                raise trouble
            yield Pause(delay_s(failures, self._chance(), trouble.retry_after_s))

    def get(self, id_: str) -> Verb[Batch]:
        return self._read(id_, self._clock() + self._timeout_s)

    def wait(self, id_: str, timeout_s: float | None) -> Verb[Batch]:
        """Ends with a batch that has ended, in whatever way. Raises Timeout."""
        deadline, pause_s = self._deadline(timeout_s), _FIRST_PAUSE_S
        while not (batch := (yield from self._read(id_, deadline))).ended:
            left_s = pause_s if deadline is None else deadline - self._clock()
            if left_s <= 0:
                raise Timeout(f"batch {id_} is still {batch.status}")
            yield Pause(min(pause_s, left_s))
            pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)
        return batch

    def cancel(self, id_: str) -> Verb[Batch]:
        return decoded((yield from self._act("POST", f"{_path(id_)}/cancel")), Batch)

    def list(self, narrowed: BatchFilter, limit: int | None) -> Verb[None]:
        """Gives batches, newest first, a page at a time."""
        return self._pages("/v1/batches", narrowed, limit, BatchPage)

    def results(self, id_: str, after: int) -> Verb[None]:
        """Gives each result after that line once, in the order of the lines, to the last of a batch that has ended."""
        blocks = self.result_blocks(id_, after)
        came = None
        while True:
            try:
                step = blocks.send(came)
            except StopIteration:
                return
            if isinstance(step, Give):
                came = None
                for line in step.value.splitlines():
                    yield Give(_result(line))
            else:
                came = yield step

    def result_blocks(self, id_: str, after: int) -> Verb[None]:
        """Gives the same as bytes, as they came: whole lines of NDJSON, as many at a time as had arrived."""
        known, over, failures = after, False, 0
        while True:
            query = {"after": str(known)} if known else {}
            came = yield Send(
                method="GET", path=f"{_path(id_)}/results", query=query, silence_s=_STREAM_SILENCE_S, stream=True
            )
            brought = False
            if isinstance(came, Answer) and came.status not in PASSING:
                checked(came)
                whole = WholeLines()
                while isinstance(came := (yield Read()), bytes) and came:
                    failures = 0
                    if block := whole.feed(came):
                        known, brought = _place(block), True
                        yield Give(block)
                if not isinstance(came, Lost):
                    # A server that stops ends its streams as properly as one that has said everything. So the end is
                    # the end when a batch that was known to have ended had nothing more to say.
                    if over and not brought:
                        return
                    if over := (yield from self.get(id_)).ended:
                        continue
            trouble = passing(came or Lost("the results ended before the batch did"))
            failures += 1
            if failures > self._retries:
                raise trouble
            yield Pause(delay_s(failures, self._chance(), trouble.retry_after_s))

    def _read(self, id_: str, deadline: float | None) -> Verb[Batch]:
        return decoded((yield from self._ask(Send(method="GET", path=_path(id_)), deadline)), Batch)


class _Place(msgspec.Struct):
    line: int


_place_decoder = msgspec.json.Decoder(_Place)


def _place(block: bytes) -> int:
    """The number of its last line."""
    try:
        return _place_decoder.decode(last_line(block)).line
    except msgspec.DecodeError as error:
        raise foreign(200, error) from error


def _result(line: bytes) -> Result:
    try:
        return msgspec.json.decode(line, type=Result)
    except msgspec.DecodeError as error:
        raise foreign(200, error) from error


def _path(id_: str) -> str:
    return f"/v1/batches/{quote(id_, safe='')}"
