"""Typed inputs to one torch tensor each, and the rows of what comes out back to items: for graphs of every format."""

import bisect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from batching.outcomes import to_numpy
from headway.manifest import Items, Manifest, Tensor
from workers.loaders import Unloadable, rowed
from workers.loaders.recorded import Recorded
from workers.loaders.transfer import transfer

Arrays = Mapping[str, np.ndarray[Any, Any]]
Named = dict[str, torch.Tensor]


class Graph:
    """A callable of named tensors, batch first, as a model: it has a device, and may be compiled or recorded."""

    def __init__(
        self,
        call: Callable[[Named], object],
        *,
        inputs: Mapping[str, Tensor],
        outputs: Sequence[str],
        manifest: Manifest,
        device: str,
    ) -> None:
        """Raises Unloadable for settings that the graph or the device cannot have."""
        settings = manifest.graph
        self._inputs = inputs
        self._outputs = outputs
        self._items: Items = manifest.items
        self._sizes = settings.sizes(manifest.batching.max_batch_size)
        self._transfer = transfer(device)
        free = any(-1 in tensor.shape for tensor in inputs.values())
        if settings.compile:
            backend = settings.compile if isinstance(settings.compile, str) else "inductor"
            try:
                call = torch.compile(call, backend=backend, dynamic=None if free else False)
            except RuntimeError as error:
                raise Unloadable(f"[graph] compile: {error}") from error
        if settings.cuda_graphs:
            if not device.startswith("cuda"):
                raise Unloadable(f"[graph] cuda_graphs is set, and the device is {device}")
            if free:
                raise Unloadable(
                    "[graph] cuda_graphs is set, and [inputs] leaves lengths free: a recording has fixed ones"
                )
            call = Recorded(call)
        self._call = call

    def predict(self, inputs: Sequence[Arrays]) -> list[Any]:
        """One answer per item. Items of different free lengths are called apart, since they make no tensor together."""
        answers: list[Any] = [None] * len(inputs)
        for indexes in rowed.groups(inputs, self._inputs, self._items):
            rows = self._predict([inputs[index] for index in indexes])
            for index, row in zip(indexes, rows, strict=True):
                answers[index] = row
        return answers

    def _predict(self, inputs: list[Arrays]) -> list[Any]:
        count = len(inputs)
        # Filled up with what is there already: no value that a client might not have sent.
        filled = inputs + inputs[-1:] * (padded(count, self._sizes) - count)
        with torch.inference_mode(), self._transfer as move:
            tensors = {
                name: move.in_([arrays[name] for arrays in filled], getattr(torch, tensor.dtype), self._items)
                for name, tensor in self._inputs.items()
            }
            answer = move.out(_named(self._call(tensors), self._outputs))
            return _parts(answer, rowed.Cuts(filled, self._items), len(filled))[:count]


def padded(count: int, sizes: Sequence[int]) -> int:
    """The smallest of the ascending sizes that holds so many; the number itself where none does."""
    at = bisect.bisect_left(sizes, count)
    return sizes[at] if at < len(sizes) else count


def _named(answer: object, names: Sequence[str]) -> object:
    """The answer as an object with the declared names, where outputs are declared."""
    if not names:
        return answer
    if isinstance(answer, Mapping):
        if set(answer) != set(names):
            raise ValueError(
                f"the graph answers {', '.join(map(str, answer))}, and [outputs] declares {', '.join(names)}"
            )
        return answer
    parts = list(answer) if isinstance(answer, list | tuple) else [answer]
    if len(parts) != len(names):
        raise ValueError(f"the graph answers {len(parts)} outputs, and [outputs] declares {', '.join(names)}")
    return dict(zip(names, parts, strict=True))


def _parts(answer: object, cuts: rowed.Cuts, count: int) -> list[Any]:
    """`count` answers: the item's part of every tensor in `answer`, in the same structure."""
    if isinstance(answer, torch.Tensor):
        if not cuts.fits(answer):
            raise ValueError(f"the graph answers a tensor of shape {list(answer.shape)} for a batch of {cuts.rows}")
        return cuts.parts(to_numpy(answer))  # one copy from the device instead of one an item
    if isinstance(answer, Mapping):
        columns = [_parts(part, cuts, count) for part in answer.values()]
        return [dict(zip(answer, row, strict=True)) for row in zip(*columns, strict=True)]
    if isinstance(answer, list | tuple):
        columns = [_parts(part, cuts, count) for part in answer]
        return [list(row) for row in zip(*columns, strict=True)]
    if answer is None or isinstance(answer, bool | int | float | str):
        return [answer] * count
    raise TypeError(f"the graph answers a {type(answer).__name__}, which has no rows")
