"""What a model.py of Triton's answers by its response senders: gathered until each request has its last response.

`execute` may have returned long before: the call of a micro-batch ends with the last response of its last request, or
when its time is up. The rule: a request is answered by whoever has its sender, in the order of `send`, and what is
said after the last response, or after the call, is refused.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from batching.outcomes import Raw
from headway import responses, tensors
from headway.errors import ItemCode, ItemFailed
from headway.manifest import Tensor
from headway.model import Item
from headway.responses import Response
from workers.loaders.pb_utils import InferenceResponse, TritonModelException

#: The outputs of a response by name, or the exception that stands for it.
Shown = Callable[[InferenceResponse], object]


class Answers:
    """Those of one call, on which its thread waits."""

    def __init__(self, wait_s: float) -> None:
        self.changed = threading.Condition()
        self._until = time.monotonic() + wait_s
        self._failure: BaseException | None = None

    def fail(self, error: BaseException | None) -> None:
        """`execute` has raised, after it had returned (a coroutine); None: it has not."""
        with self.changed:
            self._failure = error
            self.changed.notify_all()

    def wait(self, each: Sequence["Answer"]) -> None:
        """Until all are complete or the time is up. Raises what `fail` was told, where any is not complete."""
        with self.changed:
            self.changed.wait_for(
                lambda: self._failure is not None or all(one.closed for one in each), self._until - time.monotonic()
            )
            if self._failure is not None and not all(one.closed for one in each):
                raise self._failure


class Answer:
    """The one response of a request, whose model is not decoupled."""

    def __init__(self, answers: Answers, item: Item, shown: Shown) -> None:
        self.closed = False
        self._given_up = False
        self._answers = answers
        self._item = item
        self._shown = shown
        self._sending = threading.Lock()  # of several threads that answer it at once, one comes first
        self._count = 0
        self._response: InferenceResponse | None = None

    def canceled(self) -> bool:
        return self._given_up or self._item.canceled()

    def give_up(self) -> bool:
        """The call is over; what goes on in the model's threads is for nobody. Whether it had not been completed."""
        with self._answers.changed:
            self._given_up = self._given_up or not self.closed
            self.closed = True
            return self._given_up

    def send(self, response: InferenceResponse | None, final: bool) -> None:
        """Raises TritonModelException."""
        with self._sending:
            if self.closed:
                raise TritonModelException("Unable to send response. Response sender has been closed.")
            self._take(response, final)
            if final:
                with self._answers.changed:
                    self.closed = True
                    self._answers.changed.notify_all()

    def _take(self, response: InferenceResponse | None, final: bool) -> None:
        if response is not None and self._response is not None:
            raise TritonModelException(
                "Unable to send response. Non-decoupled model cannot send more than one response."
            )
        if response is None and self._response is None:
            raise TritonModelException(
                "Unable to send response. Non-decoupled model cannot send complete final before sending a response."
            )
        self._response = response or self._response

    def output(self) -> object:
        """Of the prediction, after the wait."""
        assert self._response is not None
        return self._shown(self._response)


class Several(Answer):
    """The responses of a decoupled model, each of which goes out at once."""

    def __init__(self, answers: Answers, item: Item, shown: Shown, declared: dict[str, Tensor]) -> None:
        super().__init__(answers, item, shown)
        self._datatypes = {name: tensors.DATATYPES[tensor.dtype] for name, tensor in declared.items()}
        self._error: ItemFailed | None = None  # the first
        self._said: list[Any] = []

    def _take(self, response: InferenceResponse | None, final: bool) -> None:
        value = None if response is None else self._shown(response)
        if isinstance(value, BaseException):
            failed = value if isinstance(value, ItemFailed) else ItemFailed(ItemCode.OUTPUT_INVALID, str(value))
            self._error = self._error or failed
            value = failed
        if self._item.content_type == tensors.MEDIA_TYPE:
            self._report(value, final)
        elif value is not None and not isinstance(value, ItemFailed):
            self._said.append(value)
            with contextlib.suppress(ValueError):  # too large to be told before the end
                self._item.emit(value)

    def _report(self, value: Any, final: bool) -> None:
        if value is None:
            response = Response(final=final)
        elif isinstance(value, ItemFailed):
            response = Response(final=final, code=value.code, message=str(value))
        else:
            try:
                response = Response(tensors.dump(value, self._datatypes), final)
            except TypeError as error:
                self._error = self._error or ItemFailed(ItemCode.OUTPUT_INVALID, str(error))
                response = Response(final=final, code=ItemCode.OUTPUT_INVALID, message=str(error))
        encoded = responses.encode(response)
        for piece in responses.pieces(len(self._said), encoded):
            self._item.emit(Raw(responses.MEDIA_TYPE, piece))
        self._said.append(encoded)

    def output(self) -> object:
        """All responses, or the first error among them."""
        if self._error is not None:
            return self._error
        if self._item.content_type == tensors.MEDIA_TYPE:
            return Raw(responses.MEDIA_TYPE, responses.dump(self._said))
        return self._said


def outputs(each: Sequence[Answer], timeout_s: float) -> list[object]:
    """After the wait. What is not complete has failed; whoever still has its sender is told so when it is used."""
    return [_late(timeout_s) if one.give_up() else one.output() for one in each]


def _late(timeout_s: float) -> Exception:
    return ItemFailed(
        ItemCode.EXECUTION_TIMEOUT,
        f"the model has not sent the final response within {timeout_s:g} s "
        '(config.pbtxt: parameters { key: "headway_timeout_s" … } sets another limit)',
    )
