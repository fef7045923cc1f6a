"""What the real servers answer to the cases, and what ours do."""

import socket
from collections.abc import Mapping
from pathlib import Path

import msgspec

from tests.dialects import archives, building, cases_torchserve, cases_triton, servers
from tests.dialects.exchanges import Case, Recording, Volatile, send

_HERE = Path(__file__).resolve().parent

#: Times of statistics.
_TRITON_KEYS = frozenset({"ns", "last_inference", "inference_stats_ns"})
#: Of workers.
_TORCHSERVE_KEYS = frozenset({"id", "startTime", "memoryUsage", "pid", "gpuUsage"})


def file(system: str) -> Path:
    """Where what was recorded lies."""
    return _HERE / "recorded" / f"{system}.json"


def recorded(system: str) -> Recording:
    """As it lies there."""
    return msgspec.json.decode(file(system).read_bytes(), type=Recording)


def record(system: str, folder: Path) -> Recording:
    """Starts the real server, which may use the empty folder, and asks it all there is to ask."""
    if system == "triton":
        with servers.triton(folder, cases_triton.UNLOADED) as ports:
            return Recording("Triton 2.51.0", ask(cases_triton.CASES, ports, triton_volatile(folder / "models")))
    store = folder / "store"
    store.mkdir()
    archives.build(store, building.folder(system) / "bin" / "python")
    with servers.torchserve(folder, store) as ports:
        return Recording("TorchServe 0.12.0", ask(cases_torchserve.CASES, ports, torchserve_volatile(store)))


def ask(cases: list[Case], ports: Mapping[str, str], volatile: Volatile) -> list[Case]:
    """The cases with the replies to them."""
    return [msgspec.structs.replace(case, replies=send(case.requests, ports, volatile)) for case in cases]


def triton_volatile(models: Path) -> Volatile:
    return Volatile(_TRITON_KEYS, {str(models): "MODELS", socket.gethostname(): "HOST"})


def torchserve_volatile(store: Path) -> Volatile:
    return Volatile(_TORCHSERVE_KEYS, {str(store): "STORE", socket.gethostname(): "HOST"})
