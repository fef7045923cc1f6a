"""What `make bench-dialects` runs: the same artifacts and requests to Triton and TorchServe, and to Headway's ports.

Both sides serve the small classifier in numpy: Triton's Python backend and a `model.py` of its repository, a handler in
a `.mar`. Batches are of 64 at most. Headway stores every acceptance and every result on the disk; they store nothing.
"""

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import torch

from bench import mlp
from bench.load import Dialect
from bench.rounds import Contender, Parts, parse, parser, play, report, scratch
from bench.sides import Missing, Side, Start
from bench.sync import ask
from headway.running import RunningHeadway
from tests.dialects import building, servers

_SOURCES = Path(__file__).resolve().parent / "foreign"
#: What one who registers it says: batches of 64, and 10 ms of patience.
_REGISTER = {
    "url": "mlp.mar",
    "initial_workers": "1",
    "batch_size": "64",
    "max_batch_delay": "10",
    "synchronous": "true",
}

TRITON = Dialect(ask="/v2/models/mlp/infer", tensor="features")
TORCHSERVE = Dialect(ask="/predictions/mlp")


def main() -> int:
    arguments = parser("Triton and TorchServe beside Headway's dialects.", seconds=4.0)
    arguments.add_argument("--callers", type=int, nargs="+", default=[1, 16, 64])
    options = parse(arguments)
    with scratch() as folder:
        questions = mlp.questions(mlp.write(folder / "exported"))
        repository, store = folder / "repository", folder / "store"
        write_repository(repository)
        write_store(store)

        def measure(side: Side) -> Parts:
            return {f"{callers} callers": ask(side, questions, callers, options.seconds) for callers in options.callers}

        sides = [
            Contender("Triton", triton(repository), measure),
            Contender("Headway, oip", ours("oip.http", "oip=0", repository, TRITON), measure),
            Contender("TorchServe", torchserve(store), measure),
            Contender("Headway, torchserve", registered(store), measure),
        ]
        return report("dialects", play(sides, options.rounds, options.only), options)


def weights() -> dict[str, Any]:
    """Of the classifier that `mlp.write` has exported: inputs by outputs, and biases."""
    torch.manual_seed(mlp.SEED)
    layers = [layer for layer in mlp.Classifier().eval().layers if isinstance(layer, torch.nn.Linear)]
    values = [part.detach().numpy() for layer in layers for part in (layer.weight.T, layer.bias)]
    return dict(zip("abcdef", values, strict=True))


def write_repository(folder: Path) -> None:
    version = folder / "mlp" / "1"
    version.mkdir(parents=True)
    shutil.copy(_SOURCES / "config.pbtxt", folder / "mlp")
    shutil.copy(_SOURCES / "triton_model.py", version / "model.py")
    np.savez(version / "weights.npz", **weights())


def write_store(folder: Path) -> None:
    folder.mkdir()
    np.savez(folder / "weights.npz", **weights())
    packed = ["--model-name", "mlp", "--version", "1.0", "--handler", str(_SOURCES / "handler.py")]
    packed += ["--extra-files", str(folder / "weights.npz"), "--export-path", str(folder)]
    archiver = str(Path(sys.executable).parent / "torch-model-archiver")
    subprocess.run([archiver, *packed], check=True, capture_output=True, timeout=60)
    (folder / "weights.npz").unlink()


def _port(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port


def _built(system: str) -> None:
    if not (building.folder(system) / "installed.txt").exists():
        raise Missing(f"{system} is not installed; `python -m tests.dialects build {system}` does it")


def triton(repository: Path) -> Start:
    @contextlib.contextmanager
    def start(folder: Path) -> Iterator[Side]:
        _built("triton")
        with servers.triton(folder, (), repository) as urls:
            yield Side(_port(urls["inference"]), TRITON, [])

    return start


def torchserve(store: Path) -> Start:
    @contextlib.contextmanager
    def start(folder: Path) -> Iterator[Side]:
        _built("torchserve")
        with servers.torchserve(folder, store) as urls:
            _register(urls["management"])
            yield Side(_port(urls["inference"]), TORCHSERVE, [])

    return start


def _register(management: str) -> None:
    httpx.post(f"{management}/models", params=_REGISTER, timeout=60).raise_for_status()


def ours(port: str, spoken: str, models: Path, dialect: Dialect) -> Start:
    @contextlib.contextmanager
    def start(folder: Path) -> Iterator[Side]:
        with RunningHeadway(folder / "headway", models=models, options=["--dialect", spoken]) as up:
            yield Side(_port(up.urls[port]), dialect, [up.process.pid], up)

    return start


def registered(store: Path) -> Start:
    """It unpacks beside the archive, so each round has a store of its own."""

    @contextlib.contextmanager
    def start(folder: Path) -> Iterator[Side]:
        models = folder / "store"
        shutil.copytree(store, models)
        with ours("torchserve.inference", "torchserve=0,0", models, TORCHSERVE)(folder) as side:
            assert side.system is not None
            _register(side.system.urls["torchserve.management"])
            yield side

    return start


if __name__ == "__main__":
    sys.exit(main())
