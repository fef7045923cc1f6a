"""`headway up` with the same artifacts as the real servers had, and the same questions."""

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from headway.running import RunningHeadway
from tests.dialects import archives, recording
from tests.dialects.exchanges import Case
from tests.dialects.servers import MODELS

#: System → our dialect, and what is spoken at its ports.
_DIALECTS = {
    "triton": ("oip", {"inference": "http"}),
    "torchserve": ("torchserve", {"inference": "inference", "management": "management"}),
}


class Ours:
    """A running one that speaks a system's dialect."""

    def __init__(self, system: str, up: RunningHeadway, models: Path) -> None:
        dialect, roles = _DIALECTS[system]
        self._ports = {port: up.urls[f"{dialect}.{role}"] for port, role in roles.items()}
        self._volatile = recording.volatile(system, models)

    def ask(self, cases: Sequence[Case]) -> list[Case]:
        """The cases with our replies."""
        return recording.ask(cases, self._ports, self._volatile)


@contextlib.contextmanager
def running(system: str, folder: Path, *, quick: bool = False) -> Iterator[Ours]:
    """In an empty folder. `quick`: without the archives that only slow cases are about."""
    models = folder / "models"
    if system == "triton":
        shutil.copytree(MODELS / system, models)
    else:
        models.mkdir()
        archives.build(models, only=archives.QUICK if quick else archives.ALL)
    dialect, ports = _DIALECTS[system]
    spoken = f"{dialect}={','.join('0' for _ in ports)}"
    with RunningHeadway(folder / "up", models=models, options=["--dialect", spoken]) as up:
        yield Ours(system, up, models)
