"""A reply that goes out in parts while its handler computes the rest.

Parts come as reports, as best Redis can, and the whole reply from SQL: all its parts, and then what the handler has
returned. So parts only hasten what is sent anyway: where one is lost, what is missing goes out at the end. What a
client has been sent is always the beginning of the reply in the end; where that would be untrue, or the request fails,
the connection ends without a last chunk, as TorchServe's does.
"""

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

import msgspec

from api.answers import Answer, BrokenOff, Streamed, Write
from api.dialects.torchserve.errors import Refused
from api.dialects.torchserve.replies import head_of, text_of
from api.exchange import Call
from api.following import Following
from api.service import Service
from headway import envelopes
from headway.notices import Ended
from headway.reports import Report
from headway.types import Prediction

#: So does TorchServe mark them.
_MARK = (b"ts_stream_next", b"true")


class Said:
    """What the handler has said in parts, put together."""

    def __init__(self) -> None:
        self.attempt = 1
        self.n = 0  # of the last report of that attempt
        self.head = envelopes.Response(200, "", {}, b"")  # that the handler has set before the first part
        self._sent = bytearray()
        self._at = 0  # so much of it the running attempt has said again
        self._missed = False  # something of this attempt is not known, or differs from what was sent

    def begin(self, attempt: int) -> None:
        """Another attempt, which says all again."""
        self.attempt, self.n, self._at, self._missed = attempt, 0, 0, False

    def take(self, reports: Sequence[Report]) -> bytes:
        """What is to be sent of further reports of the attempt; nothing any more where one was lost."""
        begins = len(self._sent)
        for report in reports:
            self._missed = self._missed or report.n != self.n + 1
            self.n = report.n
            if report.kind != "progress" and not self._missed:
                try:
                    self._add(self._body(report))
                except (msgspec.DecodeError, ValueError):  # anybody may write there
                    self._missed = True
        return bytes(self._sent[begins:])

    def rest(self, whole: bytes) -> bytes:
        """What it has beyond what was sent. Raises BrokenOff."""
        if not whole.startswith(self._sent):
            raise BrokenOff("the handler was called again, and has answered something else")
        return whole[len(self._sent) :]

    def _body(self, report: Report) -> bytes:
        if report.kind == "output":
            return text_of(msgspec.json.decode(report.data))
        message = envelopes.unpack_response(report.data)
        if not self._sent and (message.headers or message.status != 200):
            self.head = message
        return message.body

    def _add(self, body: bytes) -> None:
        again = body[: len(self._sent) - self._at]
        if self._sent[self._at : self._at + len(again)] != again:
            self._missed = True
            return
        self._at += len(body)
        self._sent += body[len(again) :]


class Parts:
    """Of one request, of which something was reported."""

    def __init__(
        self,
        service: Service,
        call: Call,
        id_: str,
        within_s: float,
        ended: Callable[[Ended | Prediction | None], Awaitable[Answer]],
    ) -> None:
        """`ended` makes the whole reply, or raises Refused; None: it had not ended when the time was up."""
        self._ended = ended
        self._following = Following(service, call, id_, within_s)
        self._said = Said()

    async def answer(self) -> Answer | Streamed:
        """As soon as there is a part; the whole where the end comes first. To be called in the step of the report."""
        pieces = self._pieces()
        first = await anext(pieces, None)
        if first is None:
            return await self._ended(self._following.end)

        async def write(write: Write) -> None:
            async with contextlib.aclosing(pieces):
                await write(first)
                async for piece in pieces:
                    await write(piece)
            await write(await self._rest())

        head = self._said.head
        return Streamed((_MARK, *head_of(head)), write, head.status)

    async def _rest(self) -> bytes:
        """What the whole has beyond what was sent. Raises BrokenOff."""
        try:
            whole = (await self._ended(self._following.end)).body
        except Refused as refused:
            raise BrokenOff(str(refused)) from refused
        return self._said.rest(whole)

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        """What is new, until it has ended or the time is up. Raises Disconnected."""
        said = self._said
        async with contextlib.aclosing(self._following.pages()) as pages:
            async for attempt, reports in pages:
                if attempt != said.attempt:
                    said.begin(attempt)
                if piece := said.take(reports):
                    yield piece
