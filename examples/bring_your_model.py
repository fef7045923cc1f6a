"""Bring your own model: the whole story in one file.

    python examples/bring_your_model.py

writes a model folder, serves it with `headway up`, asks it from several clients at once, shows what a wrong input is
told, and stops everything. A model is a class with `load` and `predict`: a list of inputs in, a list of outputs out.
"""

import concurrent.futures
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import headway

MODEL_TOML = """\
[inputs.rgb]
dtype = "float32"
shape = [3]

[batching]
max_batch_size = 16
"""

MODEL_PY = """\
import numpy as np
from headway import Model

PALETTE = {
    "black": (0, 0, 0), "white": (255, 255, 255), "red": (255, 0, 0), "green": (0, 128, 0), "blue": (0, 0, 255),
    "orange": (255, 165, 0), "purple": (128, 0, 128), "turquoise": (64, 224, 208), "pink": (255, 192, 203),
}

class Colors(Model):
    def load(self, context):
        self.names = list(PALETTE)
        self.points = np.array(list(PALETTE.values()), dtype=np.float32)

    def predict(self, inputs):
        # Whoever sent them, whenever: one computation for the whole micro-batch.
        asked = np.stack([each["rgb"] for each in inputs])
        distances = np.linalg.norm(asked[:, None, :] - self.points[None, :, :], axis=2)
        nearest = distances.argmin(axis=1)
        return [{"name": self.names[i], "distance": row[i]} for i, row in zip(nearest, distances.tolist(), strict=True)]
"""

COLORS = [[250, 10, 5], [0, 120, 10], [10, 10, 240], [255, 160, 20], [70, 220, 200], [250, 190, 200], [9, 9, 9]]


def write_model(models: Path) -> None:
    version = models / "colors" / "1"
    version.mkdir(parents=True)
    (models / "colors" / "model.toml").write_text(MODEL_TOML)
    (version / "model.py").write_text(MODEL_PY)


def start(models: Path, data: Path) -> tuple[subprocess.Popen[str], str]:
    """The running system and the URL of its data plane."""
    command = [sys.executable, "-m", "launch", "up", "--models", str(models), "--data", str(data)]
    command += ["--port", "0", "--admin-port", "0", "--flower-port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()  # ready data=http://… control=http://… flower=…
    if not line.startswith("ready"):
        process.wait()
        raise SystemExit("`headway up` did not start; its log is above")
    return process, line.split("data=")[1].split()[0]


def ask(url: str) -> None:
    with headway.Client(url) as client:

        def name(rgb: list[int]) -> str:
            return str(client.predict("colors", rgb, timeout=60)["name"])

        with concurrent.futures.ThreadPoolExecutor(len(COLORS)) as callers:
            for rgb, answer in zip(COLORS, callers.map(name, COLORS), strict=True):
                print(f"{rgb} is {answer}")

        try:
            client.submit("colors", [1, 2])
        except headway.ApiError as error:
            print(f"[1, 2] is refused with {error.status}: {error.errors[0]['detail']}")


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="headway-") as folder:
        write_model(Path(folder, "models"))
        process, url = start(Path(folder, "models"), Path(folder, "data"))
        try:
            ask(url)
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait()
    return code


if __name__ == "__main__":
    sys.exit(main())
