"""The client that blocks. It does the steps of `verbs.py`, and may be shared by threads."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Self, TypeVar, Unpack

import httpx

from headway.client import wire
from headway.client.batches import BatchFilter, BatchOptions, BatchVerbs
from headway.client.handle import BatchHandle, Handle
from headway.client.records import Batch, Event, Prediction, Result
from headway.client.steps import Came, Give, Pause, Read, Send, Verb
from headway.client.upload import Source, Upload
from headway.client.verbs import Filter, Options, Verbs

T = TypeVar("T")


class Client:
    """A Headway server, by default that of HEADWAY_URL, with the key of HEADWAY_API_KEY.

    `timeout`: seconds that a call may take which waits for no model, its retries included. `retries`: how often in a
    row is tried again what had no answer or a passing refusal (429, 502, 503, 504). Both errors raise `ApiError`,
    `Unreachable` or `Timeout`, all of them `HeadwayError`s.
    """

    def __init__(
        self, base_url: str | None = None, api_key: str | None = None, *, timeout: float = 60.0, retries: int = 8
    ) -> None:
        options = wire.options(base_url, api_key)
        self._lines = wire.Lines(lambda: httpx.Client(**options))
        self._verbs = Verbs(timeout, retries)
        self._batches = BatchVerbs(timeout, retries)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for http in self._lines.all:
            http.close()

    def predict(self, model: str, input: Any, *, timeout: float | None = None, **options: Unpack[Options]) -> Any:
        """The output. Raises PredictionFailed and its like, and Timeout after `timeout` seconds."""
        prediction = self._run(self._verbs.predict(model, input, options, timeout))
        return self._run(self._verbs.output_of(prediction))

    def submit(self, model: str, input: Any, **options: Unpack[Options]) -> "Job":
        """Accepted, and not lost from then on. With the same `idempotency_key` it is the same prediction."""
        return Job(self, self._run(self._verbs.submit(model, input, options)))

    def wait(self, id: str, *, timeout: float | None = None) -> Prediction:
        """The prediction once it has ended, in whatever way. Raises Timeout."""
        return self._run(self._verbs.wait(id, None, timeout))

    def get(self, id: str, *, include_input: bool = False) -> Prediction:
        return self._run(self._verbs.get(id, include_input))

    def output(self, id: str, *, as_array: bool = False) -> Any:
        """The output as it is: what JSON has, bytes or a numpy array, which numbers in JSON become by `as_array`.

        Raises ApiError: `not_terminal`, `no_output`, `not_acceptable`.
        """
        return self._run(self._verbs.output(id, as_array))

    def cancel(self, id: str) -> Prediction:
        """`canceled`, or `canceling` until the device is free. Raises ApiError `already_terminal`."""
        return self._run(self._verbs.cancel(id))

    def retry(self, id: str) -> Prediction:
        """Queued again under the same id. Raises ApiError `not_retryable`."""
        return self._run(self._verbs.retry(id))

    def delete(self, id: str) -> None:
        """Raises ApiError `not_terminal`."""
        self._run(self._verbs.delete(id))

    def events(self, id: str, *, after: int | None = None) -> Iterator[Event]:
        """What happened and happens to it, each event once, to the end; `after`: the id of the last one known."""
        return self._given(self._verbs.events(id, after))

    def list(self, *, limit: int | None = None, **narrowed: Unpack[Filter]) -> Iterator[Prediction]:
        """Newest first, without inputs and outputs; pages are fetched as they are needed."""
        return self._given(self._verbs.list(narrowed, limit))

    def batch(self, source: Source, *, model: str, **options: Unpack[BatchOptions]) -> "BatchJob":
        """A batch of a file's lines, or of inputs, once all of it has arrived.

        `source`: the path of a file, which is sent as it is (NDJSON, plain or gzip, or Parquet), or an iterable of
        inputs, `headway.Line`s where they have names. It is read as it is sent; an iterable is kept in a temporary
        file until it has arrived, because what broke off is sent again from its beginning.
        """
        with Upload(source, options.get("on_sent")) as upload:
            return BatchJob(self, self._run(self._batches.create(upload, model, options)))

    def get_batch(self, id: str) -> "BatchJob":
        return BatchJob(self, self._run(self._batches.get(id)))

    def batches(self, *, limit: int | None = None, **narrowed: Unpack[BatchFilter]) -> Iterator[Batch]:
        """Newest first; pages are fetched as they are needed."""
        return self._given(self._batches.list(narrowed, limit))

    def _run(self, verb: Verb[T]) -> T:
        came: Came = None
        while True:
            try:
                step = verb.send(came)
            except StopIteration as end:
                value: T = end.value
                return value
            came = self._do(step)

    def _given(self, verb: Verb[None]) -> Iterator[Any]:
        came: Came = None
        chunks: Iterator[bytes] = iter(())
        with ExitStack() as streams:
            while True:
                try:
                    step = verb.send(came)
                except StopIteration:
                    return
                came = None
                if isinstance(step, Give):
                    yield step.value
                elif isinstance(step, Read):
                    came = self._read(chunks)
                elif isinstance(step, Send) and step.stream:
                    streams.close()
                    came, chunks = self._open(step, streams)
                else:
                    came = self._do(step)

    def _do(self, step: object) -> Came:
        if isinstance(step, Pause):
            time.sleep(step.seconds)
            return None
        assert isinstance(step, Send)
        with self._lines.one() as http:
            try:
                response = http.send(wire.request(http, step))
            except httpx.TransportError as error:
                return wire.lost(error, http)
        return wire.answer(response, response.content)

    def _open(self, step: Send, streams: ExitStack) -> tuple[Came, Iterator[bytes]]:
        http = streams.enter_context(self._lines.one())
        try:
            response = http.send(wire.request(http, step), stream=True)
            streams.callback(response.close)
            body = b"" if response.is_success else response.read()
        except httpx.TransportError as error:
            return wire.lost(error, http), iter(())
        return wire.answer(response, body), response.iter_bytes()

    def _read(self, chunks: Iterator[bytes]) -> Came:
        try:
            return next(chunks, b"")
        except httpx.TransportError as error:
            return wire.lost(error)


class Job(Handle):
    """A submitted prediction of a `Client`."""

    def __init__(self, client: Client, prediction: Prediction) -> None:
        super().__init__(prediction)
        self._client = client

    def result(self, timeout: float | None = None) -> Any:
        """The output, once there is one. Raises PredictionFailed and its like, and Timeout after `timeout` seconds."""
        verb = self._client._verbs.wait(self.id, self.prediction, timeout)
        self.prediction = self._client._run(verb)
        return self._client._run(self._client._verbs.output_of(self.prediction))

    def refresh(self) -> Prediction:
        self.prediction = self._client.get(self.id)
        return self.prediction

    def cancel(self) -> Prediction:
        self.prediction = self._client.cancel(self.id)
        return self.prediction

    def retry(self) -> Prediction:
        self.prediction = self._client.retry(self.id)
        return self.prediction

    def delete(self) -> None:
        self._client.delete(self.id)

    def events(self, *, after: int | None = None) -> Iterator[Event]:
        return self._client.events(self.id, after=after)


class BatchJob(BatchHandle):
    """A batch of a `Client`."""

    def __init__(self, client: Client, batch: Batch) -> None:
        super().__init__(batch)
        self._client = client

    def refresh(self) -> Batch:
        self.batch = self._client._run(self._client._batches.get(self.id))
        return self.batch

    def wait(self, timeout: float | None = None) -> Batch:
        """The batch once it has ended, in whatever way. Raises Timeout after `timeout` seconds."""
        self.batch = self._client._run(self._client._batches.wait(self.id, timeout))
        return self.batch

    def cancel(self) -> Batch:
        """`canceled`, or `canceling` until the devices are free. Raises ApiError `already_terminal`."""
        self.batch = self._client._run(self._client._batches.cancel(self.id))
        return self.batch

    def results(self, *, after: int = 0) -> Iterator[Result]:
        """What each line came to, once, in the order of the lines, while the batch runs and to its end."""
        return self._client._given(self._client._batches.results(self.id, after))

    def results_ndjson(self, *, after: int = 0) -> Iterator[bytes]:
        """The same as it came, to be written to a file: whole lines, as many at a time as had arrived."""
        return self._client._given(self._client._batches.result_blocks(self.id, after))
