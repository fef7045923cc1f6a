"""What the real servers answer to the cases, and what ours do."""

import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from tests.dialects import (
    archives,
    building,
    cases_bentoml,
    cases_kserve,
    cases_mlserver,
    cases_torchserve,
    cases_triton,
    cases_triton_streams,
    servers,
    tasks,
)
from tests.dialects.exchanges import Case, Recording, Volatile, send

_HERE = Path(__file__).resolve().parent

#: Times of statistics; and what is said of workers.
#: By system: a server, or what one is asked by other means (`triton_streams`).
_KEYS = {
    "triton": frozenset({"ns", "last_inference"}),
    "triton_streams": frozenset(),
    "torchserve": frozenset({"id", "startTime", "memoryUsage", "pid", "gpuUsage"}),
    "kserve": frozenset({"time"}),
    "mlserver": frozenset(),
    "bentoml": frozenset(),
    "bentoml_tasks": frozenset({"created_at", "executed_at"}),
}


#: What some of Triton's errors begin with, where a request has no id.
_NOBODY = "[request id: <id_unknown>] "


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
            return Recording("Triton 2.51.0", ask(cases_triton.CASES, ports, volatile(system, folder / "models")))
    if system == "triton_streams":
        with servers.triton(folder, (), servers.MODELS / system) as ports:
            return Recording(
                "Triton 2.51.0", ask(cases_triton_streams.CASES, ports, volatile(system, folder / "models"))
            )
    if system == "kserve":
        with servers.kserve(folder) as ports:
            return Recording("KServe 0.21.0", ask(cases_kserve.CASES, ports, volatile(system, folder / "models")))
    if system == "mlserver":
        with servers.mlserver(folder) as ports:
            return Recording("MLServer 1.7.1", ask(cases_mlserver.CASES, ports, volatile(system, folder / "models")))
    if system in ("bentoml", "bentoml_tasks"):
        cases = cases_bentoml.CASES if system == "bentoml" else cases_bentoml.TASKS
        with servers.bentoml(folder) as ports:
            return Recording("BentoML 1.4.39", ask(cases, ports, volatile(system, folder / "models")))
    store = folder / "store"
    store.mkdir()
    archives.build(store, building.folder(system) / "bin" / "python")
    with servers.torchserve(folder, store) as ports:
        return Recording("TorchServe 0.12.0", ask(cases_torchserve.CASES, ports, volatile(system, store)))


def ask(cases: Sequence[Case], ports: Mapping[str, str], volatile: Volatile) -> list[Case]:
    """The cases with the replies to them."""
    return [
        msgspec.structs.replace(case, replies=(tasks.send if case.in_order else send)(case.requests, ports, volatile))
        for case in cases
    ]


def volatile(system: str, models: Path) -> Volatile:
    """What is another thing each time; `models`: the folder of them."""
    return Volatile(_KEYS[system], {str(models): "MODELS", socket.gethostname(): "HOST", _NOBODY: ""})
