"""What a model author implements.

A model is a class with `load` and `predict`. `predict` gets a list of inputs that were submitted by whoever, whenever,
and answers a list of the same length in the same order. It runs in a process of its own, pinned to one device.
"""

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

#: Clients are shown so much of what a model says or raises; the log has all of it.
MESSAGE_CHARACTERS = 500


class InvalidInput(ValueError):  # noqa: N818  (reads as what the author means: `raise InvalidInput("…")`)
    """Raise it, or return it as one item's output: that prediction fails with `invalid_input` and this message."""


class Listener(Protocol):
    """Who hears what a model says of its items, and knows which of them are canceled."""

    def canceled(self, id_: str) -> bool: ...

    def progress(self, id_: str, fraction: float, message: str | None) -> None: ...

    def emit(self, id_: str, partial: object) -> None: ...


@dataclass(slots=True)
class Item:
    """One prediction of the micro-batch, as the model may see it.

    Its methods are cheap and may be called from any thread of the model. Once `predict` has ended they do nothing, nor
    where nobody listens (a model that is tried by hand).
    """

    id: str  # the prediction's id
    listener: Listener | None = field(default=None, repr=False, compare=False)
    content_type: str | None = None  # of an input that came as it is, or was fetched: "image/jpeg". None: JSON

    def canceled(self) -> bool:
        """Whether nobody wants it any more. Whatever is returned for one that was told so is not looked at."""
        return self.listener is not None and self.listener.canceled(self.id)

    def progress(self, fraction: float, message: str | None = None) -> None:
        """How far it is, from 0 to 1, and a few words if there are any; the latest counts. Raises ValueError."""
        try:
            number = -1.0 if isinstance(fraction, str) else float(fraction)
        except (TypeError, ValueError):
            number = -1.0
        if not 0.0 <= number <= 1.0:
            raise ValueError(f"the progress is {str(fraction)[:80]!r}, and should be a number from 0 to 1")
        if message is not None and not isinstance(message, str):
            raise ValueError(f"the message of a progress is a {type(message).__name__}, and should be a str")
        if message is not None and len(message) > MESSAGE_CHARACTERS:
            raise ValueError(f"the message of a progress has {len(message)} characters: {MESSAGE_CHARACTERS} at most")
        if self.listener is not None:
            self.listener.progress(self.id, number, message)

    def emit(self, partial: object) -> None:
        """A part of the output, for who watches: anything that an output may be. All are sent, in their order.

        Raises ValueError for what is no output, or is larger than 256 kB.
        """
        if self.listener is not None:
            self.listener.emit(self.id, partial)


@dataclass(slots=True)
class Context:
    """Where a model lives; handed to `load`, and to `predict` together with the micro-batch's `items`."""

    path: Path  # the version folder
    device: str  # "cpu", "cuda:0", "mps". A pinned process sees one GPU, so it is always cuda:0 in there
    config: Mapping[str, Any]  # model.toml, all of it
    items: Sequence[Item] = field(default_factory=tuple)  # in the order of the inputs


class Model(abc.ABC):
    """Subclass it in `model.py`."""

    def load(self, context: Context) -> None:  # noqa: B027  (a model without weights need not have one)
        """Read weights and move them to `context.device`. Runs once, before the first predict."""

    @abc.abstractmethod
    def predict(self, inputs: list[Any], context: Context) -> Sequence[Any]:
        """`inputs`: what each client sent as `input`; for declared inputs a dict of numpy arrays each.

        What was not sent as JSON comes as bytes, or as a numpy array: see `content_type` of the item. Returns as many
        outputs as inputs, in their order: JSON values, numpy arrays, torch tensors or bytes. An output that
        is an Exception fails that one item; an exception that is raised is bisected down to the items that cause it:
        `predict` is called again, with parts of the inputs. The second parameter may be left out.
        """
