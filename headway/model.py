"""What a model author implements.

A model is a class with `load` and `predict`. `predict` gets a list of inputs that were submitted by whoever, whenever,
and answers a list of the same length in the same order. It runs in a process of its own, pinned to one device.
"""

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class InvalidInput(ValueError):  # noqa: N818  (reads as what the author means: `raise InvalidInput("…")`)
    """Raise it, or return it as one item's output: that prediction fails with `invalid_input` and this message."""


@dataclass(slots=True)
class Item:
    """One prediction of the micro-batch, as the model may see it."""

    id: str  # the prediction's id


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

        Returns as many outputs as inputs, in their order: JSON values, numpy arrays or torch tensors. An output that
        is an Exception fails that one item; an exception that is raised is bisected down to the items that cause it.
        The second parameter may be left out.
        """
