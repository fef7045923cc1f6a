"""`headway up` with the same artifacts as the real servers had, and the same questions."""

import contextlib
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx

from headway.running import RunningHeadway
from headway.testing import wait_until
from tests.dialects import archives, folders, recording
from tests.dialects.exchanges import GRPC, Case
from tests.dialects.servers import MODELS

#: System → our dialect, and what is spoken at its ports.
_DIALECTS = {
    "triton": ("oip", {"inference": "http"}),
    "triton_streams": ("oip", {"inference": "http", "grpc": "grpc"}),
    "torchserve": ("torchserve", {"inference": "inference", "management": "management"}),
    "kserve": ("kserve", {"inference": "http"}),
    "mlserver": ("mlserver", {"inference": "http"}),
    "bentoml": ("bentoml", {"inference": "http"}),
    "bentoml_tasks": ("bentoml", {"inference": "http"}),
}


class Ours:
    """A running one that speaks the systems' dialects."""

    def __init__(self, up: RunningHeadway, models: Path) -> None:
        self._urls = up.urls
        self._models = models

    def ask(self, system: str, cases: Sequence[Case]) -> list[Case]:
        """The cases with our replies."""
        dialect, roles = _DIALECTS[system]
        if dialect == "bentoml":
            ready = f"{self._urls['bentoml.http']}/readyz"
            wait_until(lambda: httpx.get(ready).status_code == 200, 30, "the services to be loaded")
        ports = {port: self._urls[f"{dialect}.{role}"] for port, role in roles.items()}
        if GRPC in ports:
            ports[GRPC] = f"grpc://{ports[GRPC].partition('//')[2]}"
        return recording.ask(cases, ports, recording.volatile(system, self._models))


@contextlib.contextmanager
def running(systems: Sequence[str], folder: Path, *, quick: bool = False) -> Iterator[Ours]:
    """In an empty folder. `quick`: without the archives that only slow cases are about."""
    models = folder / "models"
    models.mkdir()
    for system in systems:
        if system.startswith("triton"):
            shutil.copytree(MODELS / system, models, dirs_exist_ok=True)
    if "torchserve" in systems:
        archives.build(models, only=archives.QUICK if quick else archives.ALL)
    for system in set(systems) & {"kserve", "mlserver"}:
        folders.build(system, models, Path(sys.executable), quick=quick)
    if {"bentoml", "bentoml_tasks"} & set(systems):
        shutil.copytree(MODELS / "bentoml", models, dirs_exist_ok=True)
    ports = {dialect: 0 for dialect, _ in map(_DIALECTS.__getitem__, systems)}
    for dialect, roles in map(_DIALECTS.__getitem__, systems):
        ports[dialect] = max(ports[dialect], len(roles))
    options = []
    for dialect, count in ports.items():
        options += ["--dialect", f"{dialect}={','.join('0' * count)}"]
    with RunningHeadway(folder / "up", models=models, options=options) as up:
        yield Ours(up, models)
