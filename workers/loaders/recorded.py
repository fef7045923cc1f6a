"""A graph that is recorded once for each batch size, and replayed: hundreds of kernels by one call (CUDA graphs)."""

from collections.abc import Callable
from typing import Any

import torch

_WARM_UPS = 3  # calls before one is recorded, so that libraries have made what they keep

Named = dict[str, torch.Tensor]


class Recorded:
    """Around a callable on CUDA whose work depends on the shapes of its inputs alone."""

    def __init__(self, call: Callable[[Named], object]) -> None:
        self._call = call
        self._recordings: dict[tuple[torch.Size, ...], tuple[Any, Named, object]] = {}
        self._pool: Any = None  # of memory, shared: only one of them is replayed at a time

    def __call__(self, named: Named) -> object:
        """The answer stays as it is until the next call."""
        shapes = tuple(tensor.shape for tensor in named.values())
        recording = self._recordings.get(shapes)
        if recording is None:
            recording = self._recordings[shapes] = self._record(named)
        graph, inputs, answer = recording
        for name, tensor in named.items():
            inputs[name].copy_(tensor, non_blocking=True)
        graph.replay()
        return answer

    def _record(self, named: Named) -> tuple[Any, Named, object]:
        inputs = {name: tensor.clone() for name, tensor in named.items()}
        stream = torch.cuda.current_stream()
        for _ in range(_WARM_UPS):
            self._call(inputs)
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=stream):
            answer = self._call(inputs)
        self._pool = graph.pool()
        return graph, inputs, answer
