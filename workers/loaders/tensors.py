"""Typed inputs to one torch tensor each, and the rows of what comes out back to items: for graphs of every format."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from batching.outcomes import to_numpy
from headway.manifest import Tensor

Arrays = Mapping[str, np.ndarray[Any, Any]]


def predict(
    call: Callable[[dict[str, torch.Tensor]], object],
    inputs: Sequence[Arrays],
    *,
    declared: Mapping[str, Tensor],
    outputs: Sequence[str],
    device: str,
) -> list[Any]:
    """One answer per item. Items whose free dimensions differ are called apart, since they make no tensor together."""
    groups: defaultdict[tuple[tuple[int, ...], ...], list[int]] = defaultdict(list)
    for index, arrays in enumerate(inputs):
        groups[tuple(arrays[name].shape for name in declared)].append(index)
    answers: list[Any] = [None] * len(inputs)
    for indexes in groups.values():
        with torch.inference_mode():
            tensors = {
                name: _stack([inputs[index][name] for index in indexes], tensor.dtype, device)
                for name, tensor in declared.items()
            }
            answer = _named(call(tensors), outputs)
            for index, row in zip(indexes, _rows(answer, len(indexes)), strict=True):
                answers[index] = row
    return answers


def _stack(arrays: list[np.ndarray[Any, Any]], dtype: str, device: str) -> torch.Tensor:
    return torch.from_numpy(np.stack(arrays)).to(device=device, dtype=getattr(torch, dtype))


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


def _rows(answer: object, count: int) -> list[Any]:
    """`count` answers: row i of every tensor in `answer`, in the same structure."""
    if isinstance(answer, torch.Tensor):
        if answer.ndim == 0 or len(answer) != count:
            raise ValueError(f"the graph answers a tensor of shape {list(answer.shape)} for a batch of {count}")
        return list(to_numpy(answer))  # one copy from the device instead of one an item
    if isinstance(answer, Mapping):
        columns = [_rows(part, count) for part in answer.values()]
        return [dict(zip(answer, row, strict=True)) for row in zip(*columns, strict=True)]
    if isinstance(answer, list | tuple):
        columns = [_rows(part, count) for part in answer]
        return [list(row) for row in zip(*columns, strict=True)]
    if answer is None or isinstance(answer, bool | int | float | str):
        return [answer] * count
    raise TypeError(f"the graph answers a {type(answer).__name__}, which has no rows")
