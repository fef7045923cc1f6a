"""The client that awaits, on asyncio. It does the steps of `verbs.py`, and may be shared by tasks."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack
from typing import Any, Self, TypeVar, Unpack

import httpx

from headway.client import wire
from headway.client.batches import BatchFilter, BatchOptions, BatchVerbs
from headway.client.handle import BatchHandle, Handle
from headway.client.records import Batch, Event, Prediction, Result
from headway.client.steps import Came, Give, Lost, Pause, Read, Send, Verb
from headway.client.upload import Source, Upload
from headway.client.verbs import Filter, Options, Verbs

T = TypeVar("T")

#: Requests under way at most; ten thousand tasks need not ten thousand connections. Streams of events come on top.
_AT_ONCE = 100


class AsyncClient:
    """What `headway.Client` is, for asyncio: the same calls, arguments and errors, to be awaited.

    Who leaves `events` or `list` before their end closes them with `contextlib.aclosing`.
    """

    def __init__(
        self, base_url: str | None = None, api_key: str | None = None, *, timeout: float = 60.0, retries: int = 8
    ) -> None:
        options = wire.options(base_url, api_key)
        self._lines = wire.Lines(lambda: httpx.AsyncClient(**options))
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._verbs = Verbs(timeout, retries)
        self._batches = BatchVerbs(timeout, retries)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        for http in self._lines.all:
            await http.aclose()

    async def predict(self, model: str, input: Any, *, timeout: float | None = None, **options: Unpack[Options]) -> Any:
        """The output. Raises PredictionFailed and its like, and Timeout after `timeout` seconds."""
        prediction = await self._run(self._verbs.predict(model, input, options, timeout))
        return await self._run(self._verbs.output_of(prediction))

    async def submit(self, model: str, input: Any, **options: Unpack[Options]) -> "AsyncJob":
        """Accepted, and not lost from then on. With the same `idempotency_key` it is the same prediction."""
        return AsyncJob(self, await self._run(self._verbs.submit(model, input, options)))

    async def wait(self, id: str, *, timeout: float | None = None) -> Prediction:
        """The prediction once it has ended, in whatever way. Raises Timeout."""
        return await self._run(self._verbs.wait(id, None, timeout))

    async def get(self, id: str, *, include_input: bool = False) -> Prediction:
        return await self._run(self._verbs.get(id, include_input))

    async def output(self, id: str, *, as_array: bool = False) -> Any:
        """The output as it is: what JSON has, bytes or a numpy array, which numbers in JSON become by `as_array`.

        Raises ApiError: `not_terminal`, `no_output`, `not_acceptable`.
        """
        return await self._run(self._verbs.output(id, as_array))

    async def cancel(self, id: str) -> Prediction:
        """`canceled`, or `canceling` until the device is free. Raises ApiError `already_terminal`."""
        return await self._run(self._verbs.cancel(id))

    async def retry(self, id: str) -> Prediction:
        """Queued again under the same id. Raises ApiError `not_retryable`."""
        return await self._run(self._verbs.retry(id))

    async def delete(self, id: str) -> None:
        """Raises ApiError `not_terminal`."""
        await self._run(self._verbs.delete(id))

    def events(self, id: str, *, after: int | None = None) -> AsyncGenerator[Event, None]:
        """What happened and happens to it, each event once, to the end; `after`: the id of the last one known."""
        return self._given(self._verbs.events(id, after))

    def list(self, *, limit: int | None = None, **narrowed: Unpack[Filter]) -> AsyncGenerator[Prediction, None]:
        """Newest first, without inputs and outputs; pages are fetched as they are needed."""
        return self._given(self._verbs.list(narrowed, limit))

    async def batch(self, source: Source, *, model: str, **options: Unpack[BatchOptions]) -> "AsyncBatchJob":
        """A batch of a file's lines, or of inputs, once all of it has arrived.

        `source`: the path of a file, which is sent as it is (NDJSON, plain or gzip, or Parquet), or an iterable of
        inputs, `headway.Line`s where they have names. It is read as it is sent, in threads; an iterable is kept in a
        temporary file until it has arrived, because what broke off is sent again from its beginning.
        """
        with Upload(source, options.get("on_sent")) as upload:
            return AsyncBatchJob(self, await self._run(self._batches.create(upload, model, options)))

    async def get_batch(self, id: str) -> "AsyncBatchJob":
        return AsyncBatchJob(self, await self._run(self._batches.get(id)))

    def batches(self, *, limit: int | None = None, **narrowed: Unpack[BatchFilter]) -> AsyncGenerator[Batch, None]:
        """Newest first; pages are fetched as they are needed."""
        return self._given(self._batches.list(narrowed, limit))

    async def _run(self, verb: Verb[T]) -> T:
        came: Came = None
        while True:
            try:
                step = verb.send(came)
            except StopIteration as end:
                value: T = end.value
                return value
            came = await self._do(step)

    async def _given(self, verb: Verb[None]) -> AsyncGenerator[Any, None]:
        came: Came = None
        chunks: AsyncIterator[bytes] = _nothing()
        async with AsyncExitStack() as streams:
            while True:
                try:
                    step = verb.send(came)
                except StopIteration:
                    return
                came = None
                if isinstance(step, Give):
                    yield step.value
                elif isinstance(step, Read):
                    came = await self._read(chunks)
                elif isinstance(step, Send) and step.stream:
                    await streams.aclose()
                    came, chunks = await self._open(step, streams)
                else:
                    came = await self._do(step)

    async def _do(self, step: object) -> Came:
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
            return None
        assert isinstance(step, Send)
        try:
            async with asyncio.timeout(step.left_s):
                await self._turns.acquire()
        except TimeoutError:
            return Lost(f"{_AT_ONCE} others were before it")
        try:
            with self._lines.one() as http:
                try:
                    response = await http.send(wire.request(http, step))
                except httpx.TransportError as error:
                    return wire.lost(error, http)
        finally:
            self._turns.release()
        return wire.answer(response, response.content)

    async def _open(self, step: Send, streams: AsyncExitStack) -> tuple[Came, AsyncIterator[bytes]]:
        http = streams.enter_context(self._lines.one())
        try:
            response = await http.send(wire.request(http, step), stream=True)
            streams.push_async_callback(response.aclose)
            body = b"" if response.is_success else await response.aread()
        except httpx.TransportError as error:
            return wire.lost(error, http), _nothing()
        return wire.answer(response, body), response.aiter_bytes()

    async def _read(self, chunks: AsyncIterator[bytes]) -> Came:
        try:
            return await anext(chunks, b"")
        except httpx.TransportError as error:
            return wire.lost(error)


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield


class AsyncJob(Handle):
    """A submitted prediction of an `AsyncClient`."""

    def __init__(self, client: AsyncClient, prediction: Prediction) -> None:
        super().__init__(prediction)
        self._client = client

    async def result(self, timeout: float | None = None) -> Any:
        """The output, once there is one. Raises PredictionFailed and its like, and Timeout after `timeout` seconds."""
        verb = self._client._verbs.wait(self.id, self.prediction, timeout)
        self.prediction = await self._client._run(verb)
        return await self._client._run(self._client._verbs.output_of(self.prediction))

    async def refresh(self) -> Prediction:
        self.prediction = await self._client.get(self.id)
        return self.prediction

    async def cancel(self) -> Prediction:
        self.prediction = await self._client.cancel(self.id)
        return self.prediction

    async def retry(self) -> Prediction:
        self.prediction = await self._client.retry(self.id)
        return self.prediction

    async def delete(self) -> None:
        await self._client.delete(self.id)

    def events(self, *, after: int | None = None) -> AsyncGenerator[Event, None]:
        return self._client.events(self.id, after=after)


class AsyncBatchJob(BatchHandle):
    """A batch of an `AsyncClient`."""

    def __init__(self, client: AsyncClient, batch: Batch) -> None:
        super().__init__(batch)
        self._client = client

    async def refresh(self) -> Batch:
        self.batch = await self._client._run(self._client._batches.get(self.id))
        return self.batch

    async def wait(self, timeout: float | None = None) -> Batch:
        """The batch once it has ended, in whatever way. Raises Timeout after `timeout` seconds."""
        self.batch = await self._client._run(self._client._batches.wait(self.id, timeout))
        return self.batch

    async def cancel(self) -> Batch:
        """`canceled`, or `canceling` until the devices are free. Raises ApiError `already_terminal`."""
        self.batch = await self._client._run(self._client._batches.cancel(self.id))
        return self.batch

    def results(self, *, after: int = 0) -> AsyncGenerator[Result, None]:
        """What each line came to, once, in the order of the lines, while the batch runs and to its end."""
        return self._client._given(self._client._batches.results(self.id, after))

    def results_ndjson(self, *, after: int = 0) -> AsyncGenerator[bytes, None]:
        """The same as it came, to be written to a file: whole lines, as many at a time as had arrived."""
        return self._client._given(self._client._batches.result_blocks(self.id, after))
