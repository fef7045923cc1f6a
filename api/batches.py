"""Batch scoring: a file of predictions in, its results out in the same order, and what may be done in between."""

import asyncio
import time
from typing import Any

import msgspec

from api import idempotency, outputs, parquet, tracing
from api.answers import JSON_HEADERS, Answer, Headers, Streamed, Write
from api.exchange import Call, query_parameters
from api.lines import unzipped
from api.listing import cursor_of, limit_of, listed, name_of
from api.ownership import id_of
from api.predictions import RETRY_AFTER
from api.problems import Problem
from api.service import Service
from api.uploads import Upload
from api.webhooks import deliveries_of, receiver
from headway import broker
from headway.batches import Batch, BatchResult, BatchStatus, batch_json, path_of
from headway.clock import new_id
from headway.errors import SettingsError
from headway.manifest import ALIAS, NAME
from headway.rendering import ErrorBody
from headway.rendering import path_of as prediction_path
from headway.settings import seconds_of
from headway.states import Status
from headway.types import BULK_PRIORITY
from storage.batches import ItemResult, NewBatch

FILES = ("application/x-ndjson", "application/jsonl", *parquet.MEDIA_TYPES)

_REPLAYED = (b"idempotency-replayed", b"true")
_STATUSES = {status.label: status for status in BatchStatus}

CREATE_PARAMETERS: dict[str, dict[str, Any]] = {
    "model": {"type": "string", "pattern": f"^{NAME.pattern}$"},
    "version": {"type": "string", "pattern": f"^{NAME.pattern}$"},
    "alias": {"type": "string", "pattern": f"^{ALIAS.pattern}$"},
    "priority": {"type": "integer", "minimum": 0, "maximum": 9, "default": 5, "description": "Among batches."},
    "completion_window": {
        "type": "string",
        "pattern": "^[0-9]{1,10}[smhd]?$",
        "description": "Like 90s, 30m, 24h or 7d: what has not begun when it is over expires.",
    },
    "webhook": {"type": "string", "format": "uri", "description": "Where the end of the batch is told."},
}
LIST_PARAMETERS: dict[str, dict[str, Any]] = {
    "status": {"type": "string", "enum": list(_STATUSES)},
    "limit": {"type": "integer", "minimum": 1, "maximum": 100, "default": 20},
    "after": {"type": "string", "format": "uuid", "description": "The `last_id` of the page before."},
}
RESULTS_PARAMETERS: dict[str, dict[str, Any]] = {
    "after": {"type": "integer", "minimum": 0, "default": 0, "description": "The last line that is known already."},
}

#: Results that are read at once, and the bytes that they should be together: others wait for the interpreter meanwhile.
_FEWEST, _MOST, _PAGE_BYTES = 16, 500, 1 << 18
#: How often it is looked whether the next line has ended, from … to.
_SOON_S, _LATER_S = 0.05, 1.0
#: A stream of results says something at least so often.
_HEARTBEAT_S = 15.0


async def create_batch(service: Service, call: Call) -> Answer:
    """202 once the whole file is stored, however many lines of it are wrong; nothing runs before."""
    asked = query_parameters(call.query, dict.fromkeys(CREATE_PARAMETERS))
    model = name_of(asked, "model")
    if model is None:
        raise Problem.invalid("Name the model: ?model=", parameter="model")
    version, alias = name_of(asked, "version"), name_of(asked, "alias")
    if version is not None and alias is not None:
        raise Problem.invalid("Give `version` or `alias`, not both.", parameter="alias")
    kind, zipped = _media(call)
    key = idempotency.key_of(call)
    target = await service.registry.resolve(model, version, alias, whole=True)
    priority = _priority(asked.get("priority"))
    new = NewBatch(
        id=new_id(),
        tenant_id=call.tenant,
        model=target.model,
        version=target.version,
        alias=alias,
        line=broker.line(target.model, target.version, BULK_PRIORITY, await service.classes.of(call.tenant)),
        priority=priority,
        max_attempts=target.max_attempts,
        window_us=_window(asked.get("completion_window")),
        webhook=receiver(service, asked["webhook"], {"parameter": "webhook"}) if "webhook" in asked else None,
        idempotency_key=key,
        idempotency_digest=None if key is None else idempotency.digest(call, repr(sorted(asked.items())).encode()),
    )
    upload = Upload(service, new, target)
    pieces = unzipped(call.pieces()) if zipped else call.pieces()
    if kind in parquet.MEDIA_TYPES:
        async with parquet.spooled(pieces, service.uploads) as file:
            batch, replayed = await upload.run(parquet.lines(file, service.uploads))
    else:
        batch, replayed = await upload.run(pieces)
    tracing.accepted(call, (batch.id,))
    status = 200 if replayed and batch.status.terminal else 202
    extra: Headers = ((b"location", path_of(batch.id, service.settings.public_url).encode()),)
    if status == 202:
        extra = (*extra, RETRY_AFTER)
    return _answer(service, status, batch, (*extra, _REPLAYED) if replayed else extra)


def _media(call: Call) -> tuple[str, bool]:
    """(its type, whether the body is packed). Raises Problem for what is no file of lines."""
    kind = call.headers.get(b"content-type", b"").partition(b";")[0].strip().lower().decode("latin-1")
    encoding = call.headers.get(b"content-encoding", b"identity").strip().lower()
    if kind not in FILES or encoding not in (b"identity", b"gzip"):
        detail = f"Send Content-Type: {' or '.join(FILES)}, plain or with Content-Encoding: gzip."
        raise Problem("unsupported_media_type", detail)
    return kind, encoding == b"gzip"


def _priority(text: str | None) -> int:
    if text is None:
        return 5
    if len(text) != 1 or text not in "0123456789":
        raise Problem.invalid("`priority` may be 0 (first) to 9.", parameter="priority")
    return int(text)


def _window(text: str | None) -> int | None:
    """Microseconds."""
    if text is None:
        return None
    try:
        return seconds_of(text, "`completion_window`") * 1_000_000
    except SettingsError as error:
        raise Problem.invalid(f"{error}.", parameter="completion_window") from error


async def read_batch(service: Service, call: Call) -> Answer:
    """200."""
    query_parameters(call.query, {})
    return _answer(service, 200, await _own(service, call))


async def list_batches(service: Service, call: Call) -> Answer:
    """A page of them, newest first."""
    asked = query_parameters(call.query, {**dict.fromkeys(LIST_PARAMETERS), "status": tuple(_STATUSES)})
    limit, after = limit_of(asked), cursor_of(asked)
    status = _STATUSES.get(asked.get("status", ""))
    page = await service.threads.run(lambda: service.batches.page(call.tenant, status=status, after=after, limit=limit))
    public_url = service.settings.public_url
    last_id = page.rows[-1].id if page.rows else None
    rows = [msgspec.Raw(batch_json(row, public_url)) for row in page.rows]
    return listed(rows, last_id, page.more, f"{public_url}/v1/batches", asked)


async def cancel_batch(service: Service, call: Call) -> Answer:
    """200 canceled already; 202 canceling, until what had begun has ended."""
    query_parameters(call.query, {})
    id_ = id_of(call, "batch_not_found")
    changed, row = await service.threads.run(lambda: service.batches.cancel(id_, call.tenant))
    row = _there(row)
    if row.status is BatchStatus.CANCELED:
        return _answer(service, 200, row)
    if not changed and row.status is not BatchStatus.CANCELING:
        raise Problem("already_terminal", f"The batch has {row.status.label} already.")
    return _answer(service, 202, row, (RETRY_AFTER,))


async def batch_results(service: Service, call: Call) -> Streamed:
    """NDJSON in the order of the file, as it becomes known, until the batch has ended."""
    asked = query_parameters(call.query, dict.fromkeys(RESULTS_PARAMETERS))
    after = asked.get("after", "0")
    if not (after.isascii() and after.isdigit() and len(after) <= 15):
        raise Problem.invalid("`after` is the number of a line.", parameter="after")
    batch = await _own(service, call)
    headers = ((b"content-type", b"application/x-ndjson"), JSON_HEADERS[1], (b"x-accel-buffering", b"no"))
    return Streamed(headers, _Results(service, batch.id, int(after)).write)


class _Results:
    """One stream. Each page is a read of its own: a slow client holds nothing open."""

    def __init__(self, service: Service, id_: str, after: int) -> None:
        self._service = service
        self._id = id_
        self._after = after
        self._limit = 100

    async def write(self, write: Write) -> None:
        pause, spoke = _SOON_S, time.monotonic()
        while True:
            began = time.monotonic()
            batch, page, lines = await self._service.threads.run(self._look)
            if page:
                await write(b"".join([line or await self._line(one) for one, line in zip(page, lines, strict=True)]))
                more = len(page) >= self._limit
                self._after = page[-1].line
                self._fit(page)
                await self._service.submitter.make_way(began)
                pause, spoke = _SOON_S, time.monotonic()
                if not more and batch is not None and not batch.status.terminal:
                    await asyncio.sleep(pause)  # a page costs as much as a hundred of its lines
                continue
            if batch is None or batch.status.terminal:
                return
            if time.monotonic() - spoke >= _HEARTBEAT_S:
                await write(b"\n")
                spoke = time.monotonic()
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _LATER_S)

    def _look(self) -> tuple[Batch | None, list[ItemResult], list[bytes]]:
        """(the batch, what has ended since, a line for each; empty where the blob store is to be asked)."""
        # The batch first: if it had ended by then, the page that finds nothing more is the last.
        batch = self._service.batches.read(self._id)
        page = self._service.batches.results(self._id, self._after, self._limit)
        public_url = self._service.settings.public_url
        return batch, page, [b"" if _apart(one) else _result_line(one, public_url) for one in page]

    async def _line(self, one: ItemResult) -> bytes:
        """What lies in the blob store is shown within the line if it is JSON and not too large."""
        output = await outputs.stored(self._service, one.id, one.claim, one.output_type, one.output_bytes or 0)
        return _result_line(one._replace(output=output), self._service.settings.public_url)

    def _fit(self, page: list[ItemResult]) -> None:
        size = sum(len(one.output or b"") for one in page) // len(page) + 50
        self._limit = max(_FEWEST, min(_MOST, _PAGE_BYTES // size))


_encoder = msgspec.json.Encoder()
_WORDS = {
    Status.CANCELED: ErrorBody("canceled", "It was canceled.", True),
    Status.EXPIRED: ErrorBody("expired", "The batch's completion window was over before it began.", True),
}
_DELETED = ErrorBody("prediction_purged", "This prediction was deleted.", False)


def _apart(one: ItemResult) -> bool:
    return one.output_bytes is not None and not one.deleted


def _result_line(one: ItemResult, public_url: str) -> bytes:
    at: str | msgspec.UnsetType = msgspec.UNSET
    output: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: ErrorBody | msgspec.UnsetType = msgspec.UNSET
    if one.deleted:
        error = _DELETED
    elif one.status is Status.SUCCEEDED:
        output = msgspec.Raw(one.output or b"null")
        if one.output is None:
            at = f"{prediction_path(one.id, public_url)}/output"
    elif one.error is not None:
        error = ErrorBody(one.error.code, one.error.message, one.error.code.retryable)
    else:
        error = _WORDS[one.status]
    return (
        _encoder.encode(BatchResult(line=one.line, custom_id=one.custom_id, output=output, output_at=at, error=error))
        + b"\n"
    )


async def list_batch_deliveries(service: Service, call: Call) -> Answer:
    """200 with what its webhook was sent."""
    query_parameters(call.query, {})
    return await deliveries_of(service, call, (await _own(service, call)).id)


async def _own(service: Service, call: Call) -> Batch:
    id_ = id_of(call, "batch_not_found")
    return _there(await service.threads.run(lambda: service.batches.read(id_, call.tenant)))


def _there(row: Batch | None) -> Batch:
    if row is None:
        raise Problem.of("batch_not_found")
    return row


def _answer(service: Service, status: int, row: Batch, extra: Headers = ()) -> Answer:
    headers = (*JSON_HEADERS, (b"etag", b'W/"%d"' % row.revision), *extra)
    return Answer(status, batch_json(row, service.settings.public_url), headers)
