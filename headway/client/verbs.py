"""What a client can do, without doing any I/O: how each verb is asked, asked again, awaited and understood.

Its rules: whatever is sent may be sent twice. A submission carries an idempotency key, so that it makes one prediction;
of cancel, retry and delete the second answer is understood as that of the first. And the caller's time is never
exceeded on purpose: what could only be tried after it is over fails now.
"""

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypedDict
from urllib.parse import quote

import msgspec

from headway.client.asking import Asking, checked, decoded, foreign, passing
from headway.client.backoff import PASSING, delay_s
from headway.client.errors import Timeout, not_succeeded
from headway.client.records import ENDED, KINDS, Event, Page, Prediction, Transition
from headway.client.steps import Answer, Give, Lost, Pause, Read, Send, Verb
from headway.client.stream import Message, Parser
from headway.errors import InputRefused

#: A long-poll is held so long; shorter than what proxies cut.
_LONGEST_WAIT_S = 30
_SILENCE_S = 20.0
_JSON, _BYTES, _NPY = "application/json", "application/octet-stream", "application/x-npy"
#: A stream of events says something every 15 s.
_STREAM_SILENCE_S = 45.0


class Options(TypedDict, total=False):
    """What a submission may say beside its input; what is left out is for the server to decide."""

    version: str | int | None
    alias: str | None
    priority: int | None  # 0 first … 9; 5 if nobody says
    queue_timeout_seconds: float | None  # expired, if no device has begun it by then
    execution_timeout_seconds: float | None  # failed, if the device takes longer
    max_attempts: int | None
    webhook: str | None  # a URL that is told of the end
    webhook_events: Sequence[Literal["started", "completed"]] | None
    metadata: dict[str, str] | None
    idempotency_key: str | None  # a fresh UUID if nobody says
    content_type: str | None  # of an input that is sent as it is: bytes, or an array as application/x-npy


class Filter(TypedDict, total=False):
    """What a list is narrowed to."""

    status: str | None
    model: str | None
    version: str | int | None


class Verbs(Asking):
    """Of predictions."""

    def submit(self, model: str, input_: Any, options: Options) -> Verb[Prediction]:
        return self._create(model, input_, options, self._clock() + self._timeout_s, 0)

    def predict(self, model: str, input_: Any, options: Options, timeout_s: float | None) -> Verb[Prediction]:
        """Ends with a prediction that has ended, in whatever way. Raises Timeout."""
        deadline = self._deadline(timeout_s)
        prediction = yield from self._create(model, input_, options, deadline, self._wait_s(deadline))
        return (yield from self._ended(prediction.id, prediction, deadline))

    def wait(self, id_: str, known: Prediction | None, timeout_s: float | None) -> Verb[Prediction]:
        """Ends with a prediction that has ended, in whatever way. Raises Timeout."""
        return self._ended(id_, known, self._deadline(timeout_s))

    def output(self, id_: str, as_array: bool = False) -> Verb[Any]:
        """The output of one that has succeeded: what JSON has, bytes, or a numpy array. Raises ApiError."""
        headers = {"accept": _NPY} if as_array else {}
        send = Send(method="GET", path=f"{_path(id_)}/output", headers=headers)
        answer = yield from self._ask(send, self._clock() + self._timeout_s)
        match answer.headers.get("content-type", "").partition(";")[0]:
            case "application/json":
                return decoded(answer, object)
            case "application/x-npy":
                from headway import npy

                try:
                    return npy.load(answer.body)
                except InputRefused as error:
                    raise foreign(answer.status, error) from error
        return answer.body

    def output_of(self, prediction: Prediction) -> Verb[Any]:
        """Of a prediction that has ended, wherever its output lies. Raises NotSucceeded."""
        if prediction.status == "succeeded" and prediction.output_omitted:
            return (yield from self.output(prediction.id))
        return output_of(prediction)

    def get(self, id_: str, include_input: bool = False) -> Verb[Prediction]:
        return self._read(id_, self._clock() + self._timeout_s, query={"include": "input"} if include_input else {})

    def cancel(self, id_: str) -> Verb[Prediction]:
        answer = yield from self._act("POST", f"{_path(id_)}/cancel")
        return decoded(answer, Prediction)

    def retry(self, id_: str) -> Verb[Prediction]:
        answer = yield from self._act("POST", f"{_path(id_)}/retry", done=409)
        # Refused because it no longer stands still: it is the retry before, whose answer was lost, that moved it.
        return (yield from self.get(id_)) if answer.status == 409 else decoded(answer, Prediction)

    def delete(self, id_: str) -> Verb[None]:
        yield from self._act("DELETE", _path(id_), done=410)

    def list(self, narrowed: Filter, limit: int | None) -> Verb[None]:
        """Gives predictions, newest first, a page at a time."""
        return self._pages("/v1/predictions", narrowed, limit, Page)

    def events(self, id_: str, after: int | None) -> Verb[None]:
        """Gives each event once, whatever becomes of the connection, and ends after the last."""
        known, over, failures = after, False, 0
        while True:
            headers = {"accept": "text/event-stream"} | ({} if known is None else {"last-event-id": str(known)})
            came = yield Send(
                method="GET", path=f"{_path(id_)}/events", headers=headers, silence_s=_STREAM_SILENCE_S, stream=True
            )
            if isinstance(came, Answer) and came.status not in PASSING:
                if checked(came).status == 204:
                    return
                parser = Parser()
                while isinstance(came := (yield Read()), bytes) and came:
                    failures = 0
                    for event in _events(parser.feed(came), known):
                        known, over = event.id, isinstance(event, Transition) and event.status in ENDED
                        yield Give(event)
                if over and not isinstance(came, Lost):
                    return
            trouble = passing(came or Lost("the stream ended before the prediction did"))
            failures += 1
            if failures > self._retries:
                raise trouble
            yield Pause(delay_s(failures, self._chance(), trouble.retry_after_s))

    def _create(
        self, model: str, input_: Any, options: Options, deadline: float | None, wait_s: int
    ) -> Verb[Prediction]:
        fields = {name: value for name, value in options.items() if value is not None}
        key = str(fields.pop("idempotency_key", uuid.uuid4()))
        content_type = str(fields.pop("content_type", _BYTES if isinstance(input_, bytes) else _JSON))
        headers = {"content-type": content_type, "idempotency-key": quoted(key), **_prefer(wait_s)}
        # Encoded once: a server knows a submission again by its bytes.
        if content_type == _JSON:
            body, query = encoded({"input": input_, **fields}), {}
        else:
            body, query = _raw(input_, content_type), {name: _in_query(value) for name, value in fields.items()}
        send = Send(
            method="POST",
            path=f"/v1/models/{quote(model, safe='')}/predictions",
            query=query,
            headers=headers,
            body=body,
            silence_s=_SILENCE_S + wait_s,
        )
        return decoded((yield from self._ask(send, deadline)), Prediction)

    def _ended(self, id_: str, prediction: Prediction | None, deadline: float | None) -> Verb[Prediction]:
        while prediction is None or not prediction.ended:
            if deadline is not None and prediction is not None and self._clock() >= deadline:
                raise Timeout(f"prediction {id_} is still {prediction.status}", prediction)
            wait_s, began = self._wait_s(deadline), self._clock()
            try:
                prediction = yield from self._read(id_, deadline, wait_s=wait_s)
            except Timeout as error:
                raise Timeout(str(error), prediction) from error
            if not prediction.ended and self._clock() - began < wait_s / 2:
                yield Pause(1.0)  # a server that does not wait is not asked in a loop
            elif not wait_s:
                yield Pause(0.1)
        return prediction

    def _read(
        self, id_: str, deadline: float | None, *, wait_s: int = 0, query: Mapping[str, str] | None = None
    ) -> Verb[Prediction]:
        send = Send(
            method="GET", path=_path(id_), query=query or {}, headers=_prefer(wait_s), silence_s=_SILENCE_S + wait_s
        )
        return decoded((yield from self._ask(send, deadline)), Prediction)

    def _wait_s(self, deadline: float | None) -> int:
        """Whole seconds, as HTTP has them; 0 in the last second, which is then polled away."""
        return _LONGEST_WAIT_S if deadline is None else min(_LONGEST_WAIT_S, max(0, int(deadline - self._clock())))


def output_of(prediction: Prediction) -> Any:
    """Of a prediction that has ended. Raises NotSucceeded."""
    if prediction.status != "succeeded":
        raise not_succeeded(prediction)
    return prediction.output


def _raw(input_: Any, content_type: str) -> bytes:
    """Raises TypeError for what is neither bytes nor, as application/x-npy, an array of numbers."""
    if isinstance(input_, bytes | bytearray | memoryview):
        return bytes(input_)
    if content_type != _NPY:
        raise TypeError(f"a {type(input_).__name__} cannot be sent as {content_type}: that takes bytes")
    import numpy as np

    from headway import npy

    array = np.asarray(input_)
    if not npy.storable(array):
        raise TypeError(f"a {type(input_).__name__} of {array.dtype} cannot be sent as {content_type}")
    return npy.dump(array)


def _in_query(value: Any) -> str:
    if isinstance(value, dict):
        return encoded(value).decode()
    return str(value) if isinstance(value, str) or not isinstance(value, Sequence) else ",".join(value)


def _path(id_: str) -> str:
    return f"/v1/predictions/{quote(id_, safe='')}"


def _prefer(wait_s: int) -> dict[str, str]:
    return {"prefer": f"wait={wait_s}"} if wait_s else {}


def quoted(key: str) -> str:
    """As a structured field's string. Raises ValueError for what no header can carry."""
    if not (key.isascii() and key.isprintable()):
        raise ValueError("an idempotency key is made of printable ASCII characters")
    return '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'


def encoded(value: Any) -> bytes:
    """JSON. Raises ValueError for NaN and infinite numbers, which JSON has not, and TypeError for what is no data."""
    return json.dumps(value, default=_listed, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()


def _listed(value: Any) -> Any:
    """Arrays, scalars and tensors of whatever library become lists and numbers; none of them is imported for it."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} cannot be sent as JSON")


def _events(messages: Iterable[Message], known: int | None) -> Iterator[Event]:
    """Those after `known`, without kinds that this client does not know."""
    for message in messages:
        kind = KINDS.get(message.event)
        if kind is None:
            continue
        try:
            event = msgspec.convert({**msgspec.json.decode(message.data), "id": int(message.id)}, type=kind)
        except (ValueError, TypeError) as error:  # those of msgspec are ValueErrors
            raise foreign(200, error) from error
        if known is None or event.id > known:
            known = event.id
            yield event
