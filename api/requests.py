"""Bodies, strictly: what is malformed is 400, what does not fit is 422 with a JSON pointer, and nothing is guessed.

The bytes of an input are kept as they were received; they are decoded here once in full all the same, because that is
what refuses NaN, 1e400, invalid UTF-8 and what is cut off inside them.
"""

import functools
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple, NoReturn, TypeVar

import msgspec
import numpy as np
from msgspec import Meta

from api.exchange import Call
from api.problems import Problem
from headway.egress import LONGEST_URL

MAX_DEPTH = 64
MAX_INSTANCES = 1000
_LONGEST_QUEUE_TIMEOUT_S = 366 * 24 * 3600

_Key = Annotated[str, Meta(max_length=64)]
_Value = Annotated[str, Meta(max_length=512)]


class CreateFields(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """What a create may say beside its input."""

    version: str | int | None = None
    alias: str | None = None
    priority: Annotated[int, Meta(ge=0, le=9, description="0 is first.")] = 5
    max_attempts: Annotated[int, Meta(ge=1, le=100)] | None = None
    metadata: Annotated[dict[_Key, _Value], Meta(max_length=16)] = {}
    queue_timeout_seconds: Annotated[float, Meta(gt=0, le=_LONGEST_QUEUE_TIMEOUT_S)] | None = None
    execution_timeout_seconds: (
        Annotated[float, Meta(gt=0, le=86_400, description="The model's timeout_s at most.")] | None
    ) = None
    webhook: Annotated[str, Meta(max_length=LONGEST_URL, description="Where its events are sent.")] | None = None
    webhook_events: Annotated[list[Literal["started", "completed"]], Meta(min_length=1, max_length=2)] | None = None


class CreateBody(CreateFields, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """The body of a create."""

    input: msgspec.Raw


class BatchLine(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """A line of a batch's file: `custom_id` and `input`, or as OpenAI's batches have it, `method`, `url` and `body`.

    A body that is sent to one of our own paths has its `input` inside; any other is the input itself.
    """

    custom_id: Annotated[str, Meta(max_length=512)] | None = None
    input: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    method: Literal["POST"] | msgspec.UnsetType = msgspec.UNSET
    url: Annotated[str, Meta(max_length=2048)] | msgspec.UnsetType = msgspec.UNSET
    body: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class PredictBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """The body of a `:predict`."""

    instances: Annotated[list[msgspec.Raw], Meta(min_length=1, max_length=MAX_INSTANCES)]


_create = msgspec.json.Decoder(CreateBody)
_predict = msgspec.json.Decoder(PredictBody)
_line = msgspec.json.Decoder(BatchLine)
_anything = msgspec.json.Decoder()

_Body = TypeVar("_Body")


class Submission(NamedTuple):
    """A create that can be read."""

    body: CreateFields
    value: Any  # of the input; of an array's bytes their header
    data: bytes  # as it came
    input: bytes  # of it
    content_type: str | None = None  # of an input that is the body as it is; None: JSON

    def where(self, field: str) -> dict[str, str]:
        """The place of a field, as problems name it."""
        return {"pointer": f"/{field}"} if self.content_type is None else {"parameter": field}


async def read_create(call: Call, limit: int) -> Submission:
    data = await _read(call, limit)
    body = _decode(_create, data)
    value = _decode_input(data, body.input)
    _check_depth(data)
    check_fields(body, _pointer)
    return Submission(body, value, data, bytes(body.input))


def _pointer(field: str) -> dict[str, str]:
    return {"pointer": f"/{field}"}


def check_fields(body: CreateFields, where: Callable[[str], dict[str, str]]) -> None:
    """What no type says. Raises Problem; `where` names a field's place in it."""
    if body.alias is not None and body.version is not None:
        raise Problem.invalid("Give `version` or `alias`, not both.", **where("alias"))
    if body.metadata and any("\0" in text for item in body.metadata.items() for text in item):
        raise Problem.invalid("NUL characters cannot be stored.", **where("metadata"))
    if body.webhook_events is not None and body.webhook is None:
        raise Problem.invalid("Events need a `webhook` to be sent to.", **where("webhook_events"))


async def read_predict(call: Call, limit: int) -> list[tuple[msgspec.Raw, Any]]:
    """(raw, value) of each instance."""
    data = await _read(call, limit)
    body = _decode(_predict, data)
    instances = [(raw, _decode_input(data, raw)) for raw in body.instances]
    _check_depth(data)
    return instances


class Item(NamedTuple):
    """A line that can be read."""

    custom_id: str | None
    input: bytes  # as it came
    value: Any  # of the input


_OUR_PATH = re.compile(r"/v1/models/(?P<model>[^/:]+)(?:/versions/[^/:]+)?/predictions")


def decode_line(data: bytes, model: str) -> Item:
    """A line of a batch for a model. Raises Problem."""
    line = _decode(_line, data)
    raw = line.input
    if (raw is msgspec.UNSET) == (line.body is msgspec.UNSET):
        raise Problem.invalid("A line has `input`, or else `method`, `url` and `body`.", pointer="")
    if isinstance(line.body, msgspec.Raw):
        raw = _sent(line, model)
    elif line.method is not msgspec.UNSET or line.url is not msgspec.UNSET:
        raise Problem.invalid("`method` and `url` need a `body`, and no `input`.", pointer="")
    assert isinstance(raw, msgspec.Raw)
    if line.custom_id is not None and "\0" in line.custom_id:
        raise Problem.invalid("NUL characters cannot be stored.", pointer="/custom_id")
    value = _decode_input(data, raw)
    _check_depth(data)
    return Item(line.custom_id, bytes(raw), value)


def _sent(line: BatchLine, model: str) -> msgspec.Raw:
    """The input of a line in OpenAI's form."""
    if isinstance(line.url, msgspec.UnsetType) or isinstance(line.method, msgspec.UnsetType):
        raise Problem.invalid("A `body` needs `method` and `url`.", pointer="")
    assert isinstance(line.body, msgspec.Raw)
    ours = _OUR_PATH.fullmatch(line.url)
    if ours is None:
        return line.body
    if ours["model"] != model:
        raise Problem.invalid(f"The batch is for {model!r}.", pointer="/url")
    return _decode(_create, bytes(line.body)).input


async def read_body(call: Call, limit: int, decoder: msgspec.json.Decoder[_Body]) -> _Body:
    """A body that is only settings."""
    data = await _read(call, limit)
    body = _decode(decoder, data)
    _check_depth(data)
    return body


async def _read(call: Call, limit: int) -> bytes:
    if not _is_json(call.headers.get(b"content-type", b"")):
        raise Problem.of("unsupported_media_type")
    encoding = call.headers.get(b"content-encoding")
    if encoding is not None and encoding.strip().lower() != b"identity":
        raise Problem.of("unsupported_media_type")
    return await call.body(limit)


@functools.lru_cache(maxsize=256)
def _is_json(content_type: bytes) -> bool:
    kind, *parameters = content_type.lower().split(b";")
    return kind.strip() == b"application/json" and all(
        parameter.strip() in (b"charset=utf-8", b'charset="utf-8"', b"") for parameter in parameters
    )


def _decode(decoder: msgspec.json.Decoder[_Body], data: bytes) -> _Body:
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        _decode_input(data, data)  # a body that is broken further on is malformed, whatever else is wrong with it
        _check_depth(data)
        raise misfit(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        _refuse(data, error)


def _decode_input(data: bytes, raw: msgspec.Raw | bytes) -> Any:
    try:
        return _anything.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        _refuse(data, error)


_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def _refuse(data: bytes, error: Exception) -> NoReturn:
    """400, in words that help: the decoder's own where they do."""
    text = str(error)
    if isinstance(error, RecursionError):
        raise _too_deep() from error
    if isinstance(error, UnicodeDecodeError):
        detail = "The body is not valid UTF-8."
    elif isinstance(error, msgspec.ValidationError):  # the untyped decoder's only ones are of numbers
        detail = "The body has a number that is out of range."
    elif not data:
        detail = "The body is empty."
    elif text == "Input data was truncated" and _SURROGATE.search(data):
        detail = "The JSON ends too early, or escapes a surrogate without its mate."
    else:
        detail = f"{text.removeprefix('JSON is malformed: ').capitalize()}."
    raise Problem("malformed_request", detail) from error


def _too_deep() -> Problem:
    return Problem("malformed_request", f"The JSON is nested deeper than {MAX_DEPTH}.")


_PLACE = re.compile(r"^(?P<text>.*?)(?: - at (?:`key` in )?`\$(?P<path>.*)`)?$", re.DOTALL)
_FIELD = re.compile(r"^Object (?:contains unknown|missing required) field `(?P<name>.*)`$", re.DOTALL)
_STEP = re.compile(r"\.(?P<name>\w+)|\[(?P<index>\d+)\]")


def misfit(error: msgspec.ValidationError) -> Problem:
    """422 with the pointer that msgspec's message gives as a path."""
    place = _PLACE.match(str(error)[:1000])
    assert place is not None  # the pattern matches every text
    text = place["text"]
    pointer = "".join(f"/{step['name'] or step['index']}" for step in _STEP.finditer(place["path"] or ""))
    if (field := _FIELD.match(text)) is not None:
        name = field["name"][:80]
        pointer = f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}"
        text = f"There is no field `{name}` here." if "unknown" in text else f"The field `{name}` is required."
    return Problem.invalid(text if text.endswith(".") else f"{text}.", pointer=pointer)


_CHANGE = np.zeros(256, np.int8)
_CHANGE[list(b"[{")] = 1
_CHANGE[list(b"]}")] = -1


def _check_depth(data: bytes) -> None:
    """`data` is valid JSON by now. Up to 64 opening brackets cannot be too deep, and mostly there are fewer."""
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return
    # Without escaped backslashes and escaped quotes, a byte stands in a string if an odd number of quotes precede it.
    codes = np.frombuffer(data.replace(rb"\\", b"").replace(rb"\"", b""), np.uint8)
    in_string = np.logical_xor.accumulate(codes == ord('"'))
    if int(np.cumsum(np.where(in_string, 0, _CHANGE[codes]), dtype=np.int32).max()) > MAX_DEPTH:
        raise _too_deep()
