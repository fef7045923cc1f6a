"""How items become what a graph is called with, and its answer becomes theirs: stacked, joined or alone.

Items whose arrays would make none together are called apart.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from headway.manifest import Items

Arrays = Mapping[str, np.ndarray[Any, Any]]


def groups(inputs: Sequence[Arrays], names: Iterable[str], items: Items) -> Iterable[list[int]]:
    """Indices of the items of each call."""
    if items == "alone":
        return [[index] for index in range(len(inputs))]
    first = 1 if items == "joined" else 0
    names = list(names)
    by_shape: defaultdict[tuple[tuple[int, ...], ...], list[int]] = defaultdict(list)
    for index, arrays in enumerate(inputs):
        by_shape[tuple(arrays[name].shape[first:] for name in names)].append(index)
    return by_shape.values()


def together(arrays: list[np.ndarray[Any, Any]], items: Items) -> np.ndarray[Any, Any]:
    """One input of a call, of items of one group."""
    if items == "stacked":
        return np.stack(arrays)
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


class Cuts:
    """Where an answer of a call is cut, so that each of its items has what is its own."""

    def __init__(self, inputs: Sequence[Arrays], items: Items) -> None:
        self._items = items
        self._count = len(inputs)
        self.rows = len(inputs)  # that the answer must have, unless an item is alone
        if items == "joined":
            counts = [len(next(iter(arrays.values()))) for arrays in inputs]
            ends = list(itertools.accumulate(counts))
            self.rows = ends[-1]
            self._slices = [slice(end - count, end) for end, count in zip(ends, counts, strict=True)]

    def fits(self, answer: Any) -> bool:
        """Whether an array or a list has a row for each row that was asked."""
        return self._items == "alone" or (getattr(answer, "ndim", 1) > 0 and len(answer) == self.rows)

    def parts(self, answer: Any) -> list[Any]:
        """One part an item, of what fits."""
        if self._items == "alone":
            return [answer]
        return [answer[part] for part in self._slices] if self._items == "joined" else list(answer)
