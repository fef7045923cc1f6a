"""`headway up` with the same artifacts as the real servers had, and the same questions."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from headway.running import RunningHeadway
from tests.dialects import archives, recording
from tests.dialects.exchanges import Case
from tests.dialects.servers import MODELS


class Ours:
    """A running one that speaks both dialects."""

    def __init__(self, up: RunningHeadway, models: Path) -> None:
        self._ports = {
            "triton": {"inference": up.urls["oip.http"]},
            "torchserve": {role: up.urls[f"torchserve.{role}"] for role in ("inference", "management", "metrics")},
        }
        self._volatile = {
            "triton": recording.triton_volatile(models),
            "torchserve": recording.torchserve_volatile(models),
        }

    def ask(self, system: str, cases: list[Case]) -> list[Case]:
        """The cases with our replies."""
        return recording.ask(cases, self._ports[system], self._volatile[system])


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Ours]:
    """In an empty folder. Triton's models lie in the models folder, and TorchServe's archives beside them."""
    models = folder / "models"
    shutil.copytree(MODELS / "triton", models)
    archives.build(models)
    options = ["--dialect", "oip=0,0", "--dialect", "torchserve=0,0,0"]
    with RunningHeadway(folder / "up", models=models, options=options) as up:
        yield Ours(up, models)
