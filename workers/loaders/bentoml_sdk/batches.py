"""Requests of a batchable method as one call, and its answer as theirs again."""

import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from workers.loaders.bentoml_sdk.requests import Request, only


def size_of(value: Any, dimension: int) -> int:
    if isinstance(value, list | tuple):
        return len(value)
    return int(value.shape[dimension])


def packed(sizes: Mapping[int, int], requests: Mapping[int, Request]) -> Iterator[list[int]]:
    """In their order, as many as fit into a call; a larger one goes alone, and so does what cannot be joined."""
    group: list[int] = []
    for index, size in sizes.items():
        most = requests[index].method.max_batch_size
        fits = group and sum(sizes[one] for one in group) + size <= most
        if group and not (fits and _alike(only(requests[group[0]]), only(requests[index]), requests[index])):
            yield group
            group = []
        group.append(index)
    if group:
        yield group


def _alike(left: Any, right: Any, request: Request) -> bool:
    if type(left) is not type(right):
        return False
    if isinstance(left, list | tuple):
        return True
    into = request.method.batch_dim[0]
    shapes = [[length for at, length in enumerate(one.shape) if at != into] for one in (left, right)]
    return shapes[0] == shapes[1] and left.dtype == right.dtype


def together(values: Sequence[Any], dimension: int) -> Any:
    first = values[0]
    if len(values) == 1:
        return first
    if isinstance(first, list | tuple):
        return list(itertools.chain.from_iterable(values))
    if isinstance(first, np.ndarray):
        return np.concatenate(values, axis=dimension)
    return sys.modules["torch"].cat(list(values), dim=dimension)


def cut(answer: Any, start: int, end: int, dimension: int) -> Any:
    if isinstance(answer, list | tuple):
        return list(answer[start:end])
    return answer[(slice(None),) * dimension + (slice(start, end),)]
