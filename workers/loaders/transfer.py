"""Arrays onto a device, and tensors back from it.

On CUDA a device process has a stream of its own, and what is copied lies in memory that the kernel cannot move
(pinned), so that copies run while the processor goes on. One wait at the end is for all of them.
"""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import torch

from headway.manifest import Items
from workers.loaders import rowed

Array = np.ndarray[Any, Any]


class Transfer(Protocol):
    """A `with` block around one call; afterwards what `out` has answered may be read."""

    def __enter__(self) -> "Transfer": ...

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def in_(self, arrays: list[Array], dtype: torch.dtype, items: Items = "stacked") -> torch.Tensor:
        """One tensor on the device, of arrays that `rowed.together` could make one of."""
        ...

    def out(self, answer: object) -> object:
        """The same structure, with its tensors where the processor can read them; all work of the block is done."""
        ...


def transfer(device: str) -> Transfer:
    """For a device such as cuda:0."""
    return _Streamed(device) if device.startswith("cuda") else _Direct(device)


class _Direct:
    def __init__(self, device: str) -> None:
        self._device = device

    def __enter__(self) -> "_Direct":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def in_(self, arrays: list[Array], dtype: torch.dtype, items: Items = "stacked") -> torch.Tensor:
        return torch.from_numpy(rowed.together(arrays, items)).to(device=self._device, dtype=dtype)

    def out(self, answer: object) -> object:
        return answer  # whoever reads it copies it, where that is needed


class _Streamed:
    def __init__(self, device: str) -> None:
        self._device = torch.device(device)
        torch.cuda.synchronize(self._device)  # the weights are there
        self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._current: Any = None

    def __enter__(self) -> "_Streamed":
        self._current = torch.cuda.stream(self._stream)
        self._current.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        current, self._current = self._current, None
        current.__exit__(kind, value, trace)

    def in_(self, arrays: list[Array], dtype: torch.dtype, items: Items = "stacked") -> torch.Tensor:
        # Torch keeps pinned blocks for the next call, and gives none away before the copies out of it are done.
        first = torch.from_numpy(arrays[0])
        if items == "stacked":
            host = torch.empty((len(arrays), *first.shape), dtype=first.dtype, pin_memory=True)
            np.stack(arrays, out=host.numpy())
        elif items == "joined":
            rows = sum(map(len, arrays))
            host = torch.empty((rows, *first.shape[1:]), dtype=first.dtype, pin_memory=True)
            np.concatenate(arrays, out=host.numpy())
        else:
            host = first.pin_memory()
        return host.to(self._device, non_blocking=True).to(dtype)

    def out(self, answer: object) -> object:
        copied = _map(answer, self._begin)
        self._stream.synchronize()
        return copied

    def _begin(self, tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_cuda:
            return tensor
        tensor = tensor.detach()
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)


def _map(answer: object, of: Any) -> object:
    if isinstance(answer, torch.Tensor):
        return of(answer)
    if isinstance(answer, Mapping):
        return {key: _map(part, of) for key, part in answer.items()}
    if isinstance(answer, list | tuple):
        return [_map(part, of) for part in answer]
    return answer
