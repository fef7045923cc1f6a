"""What model.toml, or another server's configuration, declares beside what a graph says of itself."""

from headway.manifest import Tensor
from workers.loaders import Unloadable


def agreed(declared: dict[str, Tensor], graph: dict[str, Tensor]) -> dict[str, Tensor]:
    """The declared inputs, if the graph can take every value they allow. Raises Unloadable."""
    if set(declared) != set(graph):
        raise Unloadable(f"[inputs] declares {', '.join(declared)}, and the graph takes {', '.join(graph)}")
    for name, tensor in declared.items():
        own = graph[name]
        fits = len(own.shape) == len(tensor.shape) and all(
            theirs in (-1, ours) for ours, theirs in zip(tensor.shape, own.shape, strict=True)
        )
        if tensor.dtype != own.dtype or not fits:
            raise Unloadable(
                f"[inputs.{name}] declares {tensor.dtype} {list(tensor.shape)}, "
                f"and the graph takes {own.dtype} {list(own.shape)}"
            )
    return declared
