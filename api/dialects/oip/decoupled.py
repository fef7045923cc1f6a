"""Requests to a decoupled model, which answers each as often as it likes: its responses go out as they come.

Responses come as reports, as best Redis can, and all of them from the prediction's output in the end; so what was lost
on the way goes out then. (Those before an error are in no output: of a prediction that failed, the reports tell all.)
After a lost worker the model is called again, and says all again: what a client has had is passed over, and where
another attempt says something else, the request ends with an error and nothing is told twice.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from api.asking import ask
from api.dialects import jobs
from api.dialects.oip.errors import Code, Refused
from api.dialects.oip.inference import Asked, Reply, of_item, prepare, refusal_of, resolve, tensors_of
from api.dialects.oip.requests import Inference
from api.dialects.oip.statistics import Statistics
from api.dialects.outputs import output_of
from api.exchange import Call
from api.following import Following
from api.rendering import ended_of
from api.service import Service
from headway import responses, tensors
from headway.clock import now_us
from headway.errors import ItemCode, ItemError
from headway.notices import Ended
from headway.reports import Report
from headway.responses import Response
from headway.states import Status
from headway.types import Prediction

#: In the request's parameters: a last response is to come even where it is nothing but the last.
EMPTY_FINAL = "triton_enable_empty_final_response"
#: In the parameters of what is answered: whether it is the last.
FINAL = "triton_final_response"

EXACTLY_ONE = (
    "generate expects model to produce exactly 1 response, use generate stream for model that generates various number "
    "of responses"
)
NOT_BY_HTTP = "HTTP end point doesn't support models with decoupled transaction policy"
NOT_BY_INFER = "ModelInfer RPC doesn't support models with decoupled transaction policy"

#: How long the end of a request is waited for, for the sake of statistics, once the client has had its last response.
_COUNTED_S = 600.0


class Answered(NamedTuple):
    """A response. Without a reply and an error, it says only that it is the last."""

    final: bool
    reply: Reply | None = None
    error: Refused | None = None


class Told:
    """What of a request's responses has been passed on, and what of further reports is to be."""

    def __init__(self) -> None:
        self.failed = False  # an error was among them
        self.final = False
        self._digests: list[int] = []
        self._attempt = 1
        self._number = -1  # of the response whose pieces come
        self._pieces: list[bytes] = []
        self._differs = False

    def take(self, attempt: int, reports: Sequence[Report]) -> Iterator[Response]:
        """The responses in them that are next."""
        if attempt != self._attempt:
            self._attempt, self._number = attempt, -1
        for report in reports:
            if report.kind != "response":
                continue
            try:
                whole = self._completed(responses.piece_of(report.data))
                if whole is not None and (response := self._next(whole)) is not None:
                    yield response
            except msgspec.DecodeError:  # anybody may write there
                self._number = -1

    def rest(self, all_: Sequence[Response]) -> list[Response]:
        """Those of the output that were not passed on. Raises Refused where it is not what was."""
        encoded = [responses.encode(one) for one in all_]
        known = len(self._digests)
        if self._differs or [hash(one) for one in encoded[:known]] != self._digests:
            raise Refused(Code.INTERNAL, "the model was called again, and has answered something else")
        return list(all_[known:])

    def _completed(self, piece: responses.Piece) -> bytes | None:
        """The response that it is the last piece of, where it is the next one or was passed on already."""
        if piece.at == 0:
            self._number, self._pieces = piece.number, []
        elif (piece.number, piece.at) != (self._number, len(self._pieces)):
            self._number = -1
        if self._number < 0:
            return None
        self._pieces.append(piece.data)
        return b"".join(self._pieces) if piece.last else None

    def _next(self, whole: bytes) -> Response | None:
        known = len(self._digests)
        if self._number < known:
            self._differs = self._differs or hash(whole) != self._digests[self._number]
        if self._differs or self._number != known:
            return None
        response = responses.decode(whole)
        self._digests.append(hash(whole))
        self.failed = self.failed or bool(response.code)
        self.final = self.final or response.final
        return response


async def answers(
    service: Service, call: Call, inference: Inference, statistics: Statistics
) -> AsyncGenerator[Answered, None]:
    """Each response as it comes, the last of them `final`. Raises Refused, Problem, Disconnected.

    Whoever goes on no further cancels the request.
    """
    began = now_us()
    target, manifest = await resolve(service, call.params["model"], call.params.get("version"))
    asked = await prepare(service, call, target, manifest, inference)
    _check_outputs(asked, inference)
    (row,), target = asked.rows, asked.target
    told = Told()
    finished = False

    def shown(response: Response) -> Answered:
        if response.code:
            return Answered(response.final, error=of_item(ItemError(ItemCode(response.code), response.message)))
        if response.tensors is None:
            return Answered(response.final)
        return Answered(response.final, _reply(asked, inference, tensors.load(response.tensors)))

    with statistics.waiting(target.model, target.version, began):
        await service.capacity.admit(target)
        try:
            first = await ask(service, call, [row], target.at_most, within_s=jobs.LONGEST_WAIT_S, until_report=True)
            end = first.ended.get(row.id)
            following = Following(service, call, row.id, jobs.LONGEST_WAIT_S)
            if first.reported:
                async with contextlib.aclosing(following.pages()) as pages:
                    async for attempt, reports in pages:
                        for response in told.take(attempt, reports):
                            finished = finished or response.final
                            yield shown(response)
                        if told.final:
                            break
                end = following.end
            finished = True
        finally:
            if not finished:
                _later(_let_go(service, call, row.id))
    if told.final and end is None:
        _later(_count(service, call, asked, statistics, began))
        return
    statistics.add(target.model, target.version, asked.count, [end], began)
    if told.final:
        return
    if end is None or end.status is not Status.SUCCEEDED:
        async with contextlib.aclosing(following.rest()) as pages:  # no output tells what came before an error
            async for attempt, reports in pages:
                for response in told.take(attempt, reports):
                    yield shown(response)
        if told.final:
            return
        yield Answered(True) if told.failed else Answered(True, error=refusal_of(service, end))
        return
    stored = await output_of(service, row.id, end)
    for response in told.rest(responses.load(stored)):
        yield shown(response)


async def only(service: Service, call: Call, inference: Inference, statistics: Statistics) -> Reply:
    """Of a request that is to be answered once. Raises Refused, Problem, Disconnected."""
    found = [one async for one in answers(service, call, inference, statistics) if one.reply or one.error]
    if len(found) != 1:
        raise Refused(Code.INVALID_ARG, EXACTLY_ONE)
    (one,) = found
    if one.reply is None:
        raise one.error or Refused(Code.INTERNAL, EXACTLY_ONE)
    return one.reply


def wants_empty_final(inference: Inference) -> bool:
    return inference.parameters.get(EMPTY_FINAL) is True


def _check_outputs(asked: Asked, inference: Inference) -> None:
    declared = asked.manifest.outputs
    for one in inference.outputs:
        if declared and one.name not in declared:
            raise Refused(
                Code.INVALID_ARG, f"unexpected inference output '{one.name[:200]}' for model '{asked.target.model}'"
            )


def _reply(asked: Asked, inference: Inference, arrays: dict[str, Any]) -> Reply:
    """With those outputs that the response has, and the request wants."""
    wanted = [one for one in inference.outputs if one.name in arrays]
    outputs = []
    if arrays and (wanted or not inference.outputs):
        outputs = tensors_of(asked, [arrays], inference._replace(outputs=wanted))
    return Reply(asked.target.model, asked.target.version, inference.id, outputs)


async def _let_go(service: Service, call: Call, id_: str) -> None:
    """Nobody listens any more: it is canceled, wherever it is."""
    changed, row = await service.threads.run(lambda: service.predictions.cancel(id_, call.tenant))
    if row is not None and row.status is Status.CANCELING:
        service.publisher.cancel([id_])
    elif row is not None and changed:
        service.publisher.notify({id_: ended_of(row)})


async def _count(service: Service, call: Call, asked: Asked, statistics: Statistics, began: int) -> None:
    """Its mates of the micro-batch may go on: how it ended is known when they have, too."""
    (row,) = asked.rows
    waiter = service.waiting.register((row.id,), _COUNTED_S)
    await waiter.wait()
    end: Ended | Prediction | None = waiter.ended.get(row.id) or await service.reader.read(row.id)
    if end is not None and end.status.terminal:
        statistics.add(asked.target.model, asked.target.version, asked.count, [end], began)


_TASKS: set["asyncio.Task[None]"] = set()  # only so that nobody takes them for garbage


def _later(work: Any) -> None:
    task = asyncio.ensure_future(work)
    _TASKS.add(task)
    task.add_done_callback(_done)


def _done(task: "asyncio.Task[None]") -> None:
    _TASKS.discard(task)
    if not task.cancelled():
        task.exception()  # the sweep of the database comes to it; nobody is left to be told
