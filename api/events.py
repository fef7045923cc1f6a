"""GET /v1/predictions/{id}/events: everything that happens to a prediction, as server-sent events.

Transitions come from SQL and are complete; what the model reported in between comes from Redis, as best it can. The id
of an event says what its reader has seen: `transition * 1_000_000 + n`, the place of the last transition in the
prediction's history and how many reports of the running attempt. So whoever comes back with it gets the rest, nothing
twice, from whichever API process.

A stream holds one page of reports at most: it reads on when the client has taken what was sent.
"""

import asyncio
import contextlib
import re
from collections.abc import Sequence

import msgspec
from redis.exceptions import RedisError

from api import metrics
from api.answers import Answer, Headers, Streamed, Write
from api.exchange import Call, query_parameters
from api.ownership import id_of, own
from api.problems import Problem
from api.reporting import Tail
from api.service import Service
from api.waiting import Waiter
from headway import envelopes, responses, tensors
from headway.clock import now_us
from headway.errors import InputRefused, StorageUnavailable
from headway.rendering import prediction_json, time_of
from headway.reports import Report
from headway.states import Status, Transition, history
from headway.types import Prediction

#: Transitions are this far apart in the ids of events; an attempt has fewer reports.
_APART = 1_000_000

#: A comment goes out where nothing else has for so long, so that neither end nor what is between takes it for dead.
COMMENT_EVERY_S = 15.0

#: A row is read again after so long; claims send no notice.
_READ_EVERY_S = 1.0

#: Reports may be under way from the worker for so long after what ended their attempt was written.
_UNDER_WAY_S = 0.25

#: What a browser lets pass before it comes back, ms: an API process restarts in less.
_OPENING = b"retry: 1000\n\n"
_COMMENT = b": still here\n\n"

_HEADERS: Headers = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would hold events back
)

#: While these last, a model may report.
_RUNNING = (Status.IN_PROGRESS, Status.CANCELING)

_ID = re.compile(rb"[0-9]{1,15}")


class TransitionEvent(msgspec.Struct, frozen=True):
    """Data of the event `transition`. With `prediction`, it is the end."""

    status: str
    attempt: int
    at: str
    prediction: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class ProgressEvent(msgspec.Struct, frozen=True):
    """Data of the event `progress`: the model's own words."""

    fraction: float | None
    message: str | None
    attempt: int
    at: str


class OutputEvent(msgspec.Struct, frozen=True):
    """Data of the event `output`: a partial output."""

    output: msgspec.Raw
    attempt: int
    at: str


class _Said(msgspec.Struct, frozen=True):
    fraction: float | None = None
    message: str | None = None


_encoder = msgspec.json.Encoder()
_said = msgspec.json.Decoder(_Said)


async def events(service: Service, call: Call) -> Answer | Streamed:
    """200 and the events after `Last-Event-ID`, or 204 where it ended and the client knows."""
    query_parameters(call.query, {})
    seen = _last_event_id(call.headers.get(b"last-event-id"))
    row = await own(service, call, id_of(call))
    if row.status.terminal and seen is not None and seen // _APART >= len(history_of(row)) - 1:
        return Answer(204, b"", _HEADERS[1:2])
    return Streamed(_HEADERS, EventStream(service, row, seen).write)


def _last_event_id(value: bytes | None) -> int | None:
    if value is None:
        return None
    if not _ID.fullmatch(value):
        raise Problem("malformed_request", "Last-Event-ID is no id of an event that was sent here.")
    return int(value)


def history_of(row: Prediction) -> list[Transition]:
    return history(
        row.status, created_at=row.created_at, started_at=row.started_at, completed_at=row.completed_at, log=row.log
    )


class EventStream:
    """One client's stream: `write` ends with the prediction, or with the API."""

    def __init__(
        self, service: Service, row: Prediction, seen: int | None, *, comment_every_s: float = COMMENT_EVERY_S
    ) -> None:
        self._service = service
        self._row = row
        self._transition, self._n = (-1, 0) if seen is None else divmod(seen, _APART)
        self._tail = Tail(service.reports, row.id)
        self._comment_every_s = comment_every_s
        self._now = asyncio.get_running_loop().time
        self._sent_at = self._read_at = self._now()
        self._gone = False  # deleted, or its retention has ended
        self._told = False  # its end was heard of, so all that was reported before has arrived

    async def write(self, write: Write) -> None:
        """Until it ended, was deleted, or the API stops; then the client may come back."""
        # Registered before the row is read again, and anew in the very step that closes the last: nothing is missed.
        waiter = self._register()
        try:
            with metrics.EVENT_STREAMS.track_inprogress():
                await self._send(write, _OPENING)
                await self._read()
                while not self._gone:
                    stopping = self._service.waiting.stopping
                    await self._send_news(write)
                    if stopping or self._row.status.terminal:
                        return
                    if self._now() - self._sent_at >= self._comment_every_s:
                        await self._send(write, _COMMENT)
                    waiter.unlike = (self._row.revision, self._row.claim)
                    await waiter.wait()
                    before, waiter = waiter, self._register()
                    await self._look(before)
        finally:
            waiter.close()

    def _register(self) -> Waiter:
        quiet_s = max(0.0, self._sent_at + self._comment_every_s - self._now())
        return self._service.waiting.register((self._row.id,), quiet_s, until_report=True)

    async def _look(self, waiter: Waiter) -> None:
        """The row after a wait: as SQL showed it meanwhile, or read again where there is a reason to."""
        id_ = self._row.id
        row = waiter.present.get(id_)
        self._told = waiter.ended.get(id_) is not None or (id_ in waiter.ended and row is None)
        if row is not None and (row.status.terminal or not self._told):
            self._take(row)
        elif (
            self._told
            or self._row.status not in _RUNNING  # something was reported of what is not known to run
            or self._now() - self._read_at >= _READ_EVERY_S
        ):
            await self._read()

    async def _read(self) -> None:
        with contextlib.suppress(StorageUnavailable):  # there is a next time
            self._take(await self._service.reader.read(self._row.id))

    def _take(self, row: Prediction | None) -> None:
        self._read_at = self._now()
        self._row = row or self._row
        self._gone = row is None or row.deleted_at is not None

    async def _send(self, write: Write, piece: bytes) -> None:
        await write(piece)
        self._sent_at = self._now()

    async def _send_news(self, write: Write) -> None:
        """What is new since the last event, in order."""
        steps = history_of(self._row)
        for index in range(self._transition + 1, len(steps)):
            await self._send_reports_before(steps, index, write)
            step = steps[index]
            if step.status is not Status.CANCELING:
                self._n = 0  # a cancel that is asked for ends no attempt
            self._transition = index
            await self._send(write, self._transition_event(step, last=index == len(steps) - 1))
        if self._transition < len(steps) and steps[self._transition].status in _RUNNING:
            await self._send_reports(steps[self._transition].attempt, None, write)

    async def _send_reports_before(self, steps: Sequence[Transition], index: int, write: Write) -> None:
        if not index or steps[index - 1].status not in _RUNNING:
            return
        attempt, step = steps[index - 1].attempt, steps[index]
        if step.status is Status.CANCELING:
            await self._send_reports(attempt, step.at, write)
        elif await self._send_reports(attempt, None, write) and not self._told:
            under_way_s = min(_UNDER_WAY_S, _UNDER_WAY_S + (step.at - now_us()) / 1e6)
            if under_way_s > 0:
                await asyncio.sleep(under_way_s)
                await self._send_reports(attempt, None, write)

    async def _send_reports(self, attempt: int, until: int | None, write: Write) -> bool:
        """False where Redis cannot be asked."""
        try:
            while reports := await self._tail.next(attempt, self._n, until):
                pieces = [self._report_event(report) for report in reports]
                self._n = reports[-1].n
                await self._send(write, b"".join(pieces))
        except RedisError:
            return False
        return True

    def _transition_event(self, step: Transition, *, last: bool) -> bytes:
        prediction: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
        if last and step.status.terminal:  # of an end before an explicit retry nothing more is known
            prediction = msgspec.Raw(prediction_json(self._row, self._service.settings.public_url))
        data = TransitionEvent(step.status.label, step.attempt, time_of(step.at), prediction)
        return self._event(b"transition", data, self._n)

    def _report_event(self, report: Report) -> bytes:
        at = time_of(report.at)
        if report.kind != "progress":
            output = report.data if report.kind == "output" else _TOLD[report.kind](report.data)
            if not output:
                return b""
            return self._event(b"output", OutputEvent(msgspec.Raw(output), report.attempt, at), report.n)
        try:
            said = _said.decode(report.data)
        except msgspec.DecodeError:  # anybody may write there
            return b""
        return self._event(b"progress", ProgressEvent(said.fraction, said.message, report.attempt, at), report.n)

    def _event(self, kind: bytes, data: msgspec.Struct, n: int) -> bytes:
        # In JSON, an end of line that is not escaped is white space; in an event, it would begin another field.
        line = _encoder.encode(data).replace(b"\n", b" ").replace(b"\r", b" ")
        return b"id: %d\nevent: %b\ndata: %b\n\n" % (self._transition * _APART + n, kind, line)


def _outputs(piece: bytes) -> bytes:
    """The outputs of one of several responses, as JSON; b"" where it has none, is no JSON, or comes in pieces."""
    try:
        part = responses.piece_of(piece)
        response = responses.decode(part.data) if part.last and not part.at else None
        return b"" if response is None or response.tensors is None else tensors.json_of(response.tensors)
    except (msgspec.DecodeError, ValueError, InputRefused):
        return b""


def _told(message: bytes) -> bytes:
    """The body of a part of a reply, as JSON: an object or array as it is, anything else as text. b"": it has none."""
    try:
        body = envelopes.unpack_response(message).body
    except ValueError:  # anybody may write there
        return b""
    if body[:1] in (b"{", b"["):
        try:
            msgspec.json.decode(body)
        except (msgspec.DecodeError, RecursionError):
            pass
        else:
            return body
    return _encoder.encode(body.decode("utf-8", "replace")) if body else b""


_TOLD = {"message": _told, "response": _outputs}
