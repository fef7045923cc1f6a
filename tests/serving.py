"""A model version as a worker serves it, without a worker: real device processes, a real store, and hints by hand."""

import textwrap
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from headway import broker
from headway.egress import INPUT, Egress
from headway.states import Status
from headway.testing import new_prediction, wait_until
from headway.types import Prediction
from headway.versions import scan_model
from storage.blobs import Blobs
from storage.engine import Database
from storage.models import Models
from storage.predictions import Predictions
from storage.workers import Workers
from workers.claims import Claims
from workers.fetching import Fetcher
from workers.finisher import Finisher
from workers.materials import Materials
from workers.outputs import Outputs
from workers.progress import Progress
from workers.publisher import Publisher
from workers.serving import Serving, Surroundings
from workers.tally import Tally
from workers.yielding import Hurry

NAME = "mine"
LINE = broker.line(NAME, "1", 5)


#: Ten megabytes a call.
LEAKS = """
from headway import Model

class Leaks(Model):
    kept = []

    def predict(self, inputs):
        self.kept.append(b"x" * 10_000_000)
        return [value + 1 for value in inputs]
"""


class Served:
    """`NAME`@1, serving until the block ends."""

    def __init__(
        self,
        folder: Path,
        database: Database,
        redis_url: str,
        model_py: str,
        toml: str = "",
        process_memory: int | None = None,
    ) -> None:
        version = folder / "models" / NAME / "1"
        version.mkdir(parents=True)
        (version / "model.py").write_text(textwrap.dedent(model_py))
        (version.parent / "model.toml").write_text(toml)
        (found,) = scan_model(version.parent)
        assert found.manifest is not None, found.error
        self.predictions = Predictions(database)
        self._database = database
        Workers(database).register("w1", "cpu", "host", 1)
        self._publisher = Publisher(redis_url)
        self._finisher = Finisher(self.predictions, self._publisher)
        blobs = Blobs(str(folder / "blobs"))
        self._outputs = Outputs(blobs)
        self._materials = Materials(blobs, Fetcher(Egress((), INPUT)))
        shared = Surroundings(
            worker_id="w1",
            device="cpu",
            models=Models(database),
            predictions=self.predictions,
            claims=Claims(),
            finisher=self._finisher,
            publisher=self._publisher,
            progress=Progress(self.predictions),
            materials=self._materials,
            outputs=self._outputs,
            loading=threading.BoundedSemaphore(1),
            hurry=Hurry(),
            process_memory=process_memory,
            pin=False,
            on_ended=lambda ended, ids: None,
        )
        self.states: list[str] = []
        self.serving = Serving(found, found.manifest, shared, Tally(NAME, "1"), self._note)

    def _note(self) -> None:
        self.states.append(self.serving.state)

    def __enter__(self) -> "Served":
        self.serving.start()
        wait_until(lambda: self.serving.state != "loading", 60, "the model to be loaded")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.serving.close()
        self.serving.drain(0.0)
        self._finisher.close(5)
        self._outputs.close(1)
        self._materials.close()
        self._publisher.close()

    @property
    def pid(self) -> int:
        """Of the device process."""
        return wait_until(lambda: self.serving.runners[0].pid, 30, "a device process") or 0

    def submit(self, inputs: Iterable[Any], **fields: Any) -> list[str]:
        rows = [new_prediction(model=NAME, line=LINE, body=msgspec.json.encode(value), **fields) for value in inputs]
        assert all(isinstance(position, int) for position in self.predictions.insert(rows))
        return [row.id for row in rows]

    def hint(self) -> None:
        """Of what is queued: new, or handed back."""
        self.serving.window.offer(self.predictions.oldest_queued(LINE, 500, before=self.predictions.now() + 1))

    def ended(self, ids: list[str], timeout_s: float = 60.0) -> list[Prediction]:
        """The rows, once all of them have ended."""

        def all_ended() -> bool:
            self.hint()
            rows = self._read(ids)
            return all(row.status in (Status.SUCCEEDED, Status.FAILED, Status.CANCELED) for row in rows)

        _every(0.02, all_ended, timeout_s)
        return self._read(ids)

    def charges(self, ids: list[str]) -> set[tuple[int, int]]:
        """(charged, losses) of all of them."""
        with self._database.read() as connection:
            rows = connection.exec_driver_sql("SELECT id, charged, losses FROM predictions").all()
        wanted = {str(id_).replace("-", "") for id_ in ids}
        return {(charged, losses) for id_, charged, losses in rows if str(id_).replace("-", "") in wanted}

    def _read(self, ids: list[str]) -> list[Prediction]:
        found: dict[str, Prediction] = {}
        for start in range(0, len(ids), 500):
            found |= self.predictions.read(ids[start : start + 500])
        return [found[id_] for id_ in ids]


def _every(seconds: float, predicate: Callable[[], bool], timeout_s: float) -> None:
    """`wait_until`, for predicates that cost something."""
    pause = threading.Event()
    wait_until(lambda: predicate() or pause.wait(seconds), timeout_s, "predictions to end")
